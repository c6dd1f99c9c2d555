"""Rows of preferences as tokens, two sequences each, and their batches. Shapes: B examples of a batch, T tokens."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from hftrain import text
from hftrain.data.examples import Examples
from hftrain.data.readers import Fault
from hftrain.data.rows import Rows
from hftrain.losses import IGNORE, Batch
from hftrain.tasks import chat
from hftrain.tasks.chat.examples import check_refused, row_by_row
from hftrain.text.examples import TOKENS, of_split

if TYPE_CHECKING:
    from hftrain.tasks.preference.config import PreferenceRecipeConfig, RewardConfig

logger = logging.getLogger(__name__)
IDS, LABELS = ("first_input_ids", "second_input_ids"), ("first_labels", "second_labels")


def tokenize_preferences(
    rows: Rows, template: chat.Template, config: PreferenceRecipeConfig | RewardConfig, *, unpaired: bool = False
) -> Examples:
    """Examples of two sequences: "first_input_ids", "first_labels", "second_input_ids", "second_labels", where labels
    are -100 outside the answer. In a pair the chosen answer comes first, then the rejected one. `unpaired`, for KTO:
    first the labelled answer, then the answer of another row (drawn once by the seed) to the same prompt; and
    "desirable".

    Sequences of more than max_length tokens are truncated and counted as "truncated", rows left out as "refused".

    Args:
        config: a `ChatConfig`, `DataConfig` and `TrainConfig`, for max_length, max_bad_rows and seed.

    Raises:
        ValueError: more than max_bad_rows rows cannot be used: the template refuses them, or max_length cuts off the
            whole answer.
    """
    rows = Rows.of(rows)
    paired = {"chosen": "first", "rejected": "second"}
    pairs = _judged(rows, config.seed) if unpaired else replace(rows, data=rows.data.rename_columns(paired))
    schema = pa.schema([(name, TOKENS) for names in zip(IDS, LABELS, strict=True) for name in names])
    if unpaired:
        schema = schema.append(pa.field("desirable", pa.bool_()))

    convert = row_by_row(partial(_encode, template, config.max_length), template, schema.names)
    examples = text.tokenized(
        pairs, template.tokenizer, convert, schema=schema, arguments=["preference", config.max_length], lengths=IDS
    )
    examples = check_refused(pairs, examples, template, config.max_bad_rows)
    if cut := examples.counts["truncated"]:
        values = (of_split(rows), cut, 2 * len(examples), config.max_length)
        logger.warning("%s%d of %d answers are truncated at max_length = %d tokens", *values)
    return examples


def _encode(template: chat.Template, max_length: int, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    example: dict[str, Any] = {"desirable": row.get("desirable"), "truncated": 0}
    prompt, tools = json.loads(row["prompt"]), json.loads(row["tools"])
    for side in ("first", "second"):
        ids, labels = template.encode(prompt, json.loads(row[side]), tools)
        if set(labels[:max_length]) == {IGNORE}:
            raise Fault(f"max_length = {max_length} tokens cuts it before the answer")
        example["truncated"] += len(ids) > max_length
        example[f"{side}_input_ids"], example[f"{side}_labels"] = ids[:max_length], labels[:max_length]
    if example["desirable"] is None and example["first_input_ids"] == example["second_input_ids"]:
        where = (
            f"within max_length = {max_length} tokens" if example["truncated"] else "as the chat template renders them"
        )
        raise Fault(f"chosen and rejected are the same {where}")
    return [example]


def _judged(rows: Rows, seed: int) -> Rows:
    """A row for each answer: "first" with "desirable", and as "second" the answer of another row. `seed` arranges the
    rows in a ring, and each row gets the answer of the next."""
    from datasets import Dataset

    owners, answers = [], []
    for number, row in enumerate(rows):
        for side in ("chosen", "rejected"):
            if row[side] != "null":
                judged = {"prompt": row["prompt"], "first": row[side], "tools": row["tools"]}
                answers.append({**judged, "desirable": side == "chosen"})
                owners.append(number)
    if len(answers) < 2:
        raise ValueError("loss_type kto compares each answer with another row's: it needs at least two rows")
    ring = np.argsort(np.random.Philox(key=[seed, len(answers)]).random_raw(len(answers)), kind="stable")
    following = dict(zip(ring.tolist(), np.roll(ring, -1).tolist(), strict=True))
    pairs = Dataset.from_list([row | {"second": answers[following[i]]["first"]} for i, row in enumerate(answers)])
    return replace(rows.select(owners), data=pairs, leaks=rows.leaks)


def collator(template: chat.Template) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    """`collate_preferences` with the tokenizer's padding."""
    return partial(collate_preferences, pad_token_id=template.tokenizer.pad_token_id)


def collate_preferences(examples: Sequence[Mapping[str, Any]], *, pad_token_id: int) -> Batch:
    """Examples as a batch, padded on the right.

    Returns:
        (B, 2, T) int64: input_ids, attention_mask, labels (-100 outside the answer). If the examples have
        them, also reference (B, 2) fp32 and desirable (B,) bool.
    """
    ids = [example[name] for example in examples for name in IDS]
    labels = [example[name] for example in examples for name in LABELS]
    batch = {
        "input_ids": text.pad(ids, pad_token_id),
        "attention_mask": text.attention_mask(ids),
        "labels": text.pad(labels, IGNORE),
    }
    batch = {name: values.view(len(examples), 2, -1) for name, values in batch.items()}
    for name in ("reference", "desirable"):
        if name in examples[0]:
            batch[name] = torch.tensor([example[name] for example in examples])
    return batch
