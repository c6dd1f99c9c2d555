"""Questions with their contexts as windows: the question and a part of the context each, with the answer's tokens.

A window without the whole answer points at its null token: the tokenizer's [CLS], or else the last token.

Shapes: B windows of a batch, T tokens of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from hftrain import text
from hftrain.data.examples import Examples
from hftrain.losses import Batch
from hftrain.models import load
from hftrain.tasks.answering.config import AnswerConfig, AnsweringConfig
from hftrain.text.examples import TOKENS

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

EXAMPLE = pa.schema(
    [
        *((name, TOKENS) for name in ("input_ids", "token_type_ids", "labels", "offsets")),
        *((name, pa.int32()) for name in ("begin", "null", "part")),
    ]
)


def cut_contexts(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    contexts: Sequence[str],
    answers: Sequence[tuple[int, int] | None],
    *,
    max_seq_length: int,
    doc_stride: int,
) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """Windows of questions with their contexts, in order: columns of `EXAMPLE`, and counts for the report.

    "labels" are the first and the last token of the answer, or twice the null token if the window lacks a part of it.
    The context's tokens begin at "begin"; "offsets" are the first character and the end of each of them, flattened,
    without blanks at their ends (`trim`). "part" numbers the windows of a question.

    Args:
        answers: first character and end (excluded) of each answer; None: no answer.

    Raises:
        ValueError: a question leaves no room for its context.
    """
    room = max_seq_length - tokenizer.num_special_tokens_to_add(pair=True)
    for question, ids in zip(questions, tokenizer(list(questions), add_special_tokens=False)["input_ids"], strict=True):
        if room - len(ids) <= doc_stride:
            raise ValueError(
                f"a question of {len(ids)} tokens leaves {max(0, room - len(ids))} tokens of a window for its context, "
                f"not more than the overlap of {doc_stride} tokens: {question[:80]!r}. "
                "Raise max_seq_length, or lower doc_stride"
            )
    encoded = tokenizer(
        list(questions),
        list(contexts),
        truncation="only_second",
        max_length=max_seq_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    columns: dict[str, list[Any]] = {name: [] for name in EXAMPLE.names}
    counts = {"questions in windows": 0, "windows without the answer": 0}
    before = -1
    for window, question in enumerate(encoded["overflow_to_sample_mapping"]):
        part = columns["part"][-1] + 1 if question == before else 0
        before = question
        counts["questions in windows"] += part == 1
        ids, sides = encoded["input_ids"][window], encoded.sequence_ids(window)
        begin = sides.index(1) if 1 in sides else 0  # 0: the tokenizer drops the whole context
        if not part:
            starts, ends = trim(contexts[question])
        offsets = np.array(encoded["offset_mapping"][window][begin : begin + sides.count(1)], dtype=int).reshape(-1, 2)
        offsets = np.stack([starts[offsets[:, 0]], ends[offsets[:, 1]]], axis=1)
        null = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else len(ids) - 1
        labels = [null, null]
        if span := answers[question]:
            answer = starts[span[0]], ends[span[1]]
            if len(offsets) and offsets[0, 0] <= answer[0] and answer[1] <= offsets[-1, 1]:
                first = np.searchsorted(offsets[:, 0], answer[0], side="right") - 1
                last = np.searchsorted(offsets[:, 1], answer[1], side="left")
                labels = [begin + int(first), begin + int(last)]
            else:
                counts["windows without the answer"] += 1
        types = encoded["token_type_ids"][window]
        values = (ids, types, labels, offsets.flatten().tolist(), begin, null, part)
        for name, value in zip(EXAMPLE.names, values, strict=True):
            columns[name].append(value)
    return columns, counts


def trim(text: str) -> tuple[np.ndarray, np.ndarray]:
    """For each position in a text, (characters + 1,): the next position that is not a blank, and the last one that does
    not follow a blank. Some tokenizers count the space before a word as part of it, but no answer begins or ends with a
    space; a token of blanks alone gets a start after its end."""
    solid = np.fromiter((not sign.isspace() for sign in text), bool, len(text))
    places = np.arange(len(text) + 1)
    starts = np.minimum.accumulate(np.where(np.append(solid, True), places, len(text))[::-1])[::-1]
    return starts, np.maximum.accumulate(np.where(np.insert(solid, 0, True), places, 0))


def tokenize(rows: Rows, tokenizer: PreTrainedTokenizerBase, config: AnsweringConfig) -> Examples:
    """`cut_contexts` of rows, each with its first answer, cached on disk by `text.tokenized`."""
    settings = {"max_seq_length": config.max_seq_length, "doc_stride": config.doc_stride}

    def convert(batch: Mapping[str, list[Any]]) -> tuple[dict[str, list[Any]], dict[str, int]]:
        spans = [
            (starts[0], starts[0] + len(answers[0])) if answers else None
            for answers, starts in zip(batch["answers"], batch["starts"], strict=True)
        ]
        return cut_contexts(tokenizer, batch["question"], batch["context"], spans, **settings)

    return text.tokenized(rows, tokenizer, convert, schema=EXAMPLE, arguments=settings)


def collate(examples: Sequence[Mapping[str, Any]], *, pad_token_id: int, token_types: bool) -> Batch:
    """int64 (B, T): input_ids, attention_mask, token_type_ids if `token_types`, context: 1 at the tokens that an answer
    may contain, labels (B, 2), null (B,)."""
    ids = [example["input_ids"] for example in examples]
    batch = {
        "input_ids": text.pad(ids, pad_token_id),
        "attention_mask": text.attention_mask(ids),
        "labels": torch.tensor([list(example["labels"]) for example in examples]),
        "null": torch.tensor([example["null"] for example in examples]),
    }
    if token_types:
        batch["token_type_ids"] = text.pad([example["token_type_ids"] for example in examples], 0)
    batch["context"] = torch.zeros_like(batch["input_ids"])
    for row, example in zip(batch["context"], examples, strict=True):
        row[example["begin"] : example["begin"] + len(example["offsets"]) // 2] = 1
    return batch


def load_tokenizer(config: AnswerConfig) -> PreTrainedTokenizerBase:
    """The fast tokenizer of the model, set to read a question before its context."""
    tokenizer = load.load_fast_tokenizer(config, "tokens to characters")
    tokenizer.padding_side = "right"  # the question comes first
    return tokenizer


def collator(tokenizer: PreTrainedTokenizerBase, model: Any) -> Callable[[Sequence[Any]], Batch]:
    """`collate` with the tokenizer's padding, and token types if tokenizer and model use them."""
    module = model.get_base_model() if hasattr(model, "get_base_model") else model
    input_names = (tokenizer.model_input_names, signature(module.forward).parameters)
    token_types = all("token_type_ids" in names for names in input_names)
    return partial(collate, pad_token_id=tokenizer.pad_token_id or 0, token_types=token_types)  # the mask hides padding
