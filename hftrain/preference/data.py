"""Rows of preferences: the shapes they come in, and their tokens.

A row becomes {"prompt", "chosen", "rejected", "tools"}, JSON strings of messages; where an answer is labelled good or
bad instead of standing in a pair, the other side is "null".
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hftrain import chat, text
from hftrain.chat.examples import REFUSED, check_refused
from hftrain.config import DataConfig
from hftrain.data.readers import Fault
from hftrain.losses import IGNORE
from hftrain.splits import load_splits
from hftrain.text.examples import TOKENS, of_split

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

COLUMNS = ("prompt", "chosen", "rejected", "tools")
PROMPTS = ("prompt", "question", "query", "conversations", "messages")  # names of a prompt, beside instruction/input
IDS, LABELS = ("first_input_ids", "second_input_ids"), ("first_labels", "second_labels")
Messages = list[dict[str, Any]]


def to_preference(record: Mapping[str, Any]) -> tuple[Messages, Messages | None, Messages | None, list[Any]]:
    """(prompt, chosen, rejected, tools) of a row. Known are, with text or lists of messages for each:

    - prompt, chosen, rejected; the answers may begin with the prompt, and then it may be left out;
    - instruction, input, chosen, rejected; question, chosen, rejected; conversations, chosen, rejected; with `system`;
    - prompt, completion, label (true or false): then one of the two answers is None.

    Raises:
        Fault: it is none of these, or there is nothing to learn from it.
    """
    prompt = prompt_of(record)
    tools = chat.to_chat({"prompt": "-", "completion": "-", "tools": record.get("tools")}).tools
    if "label" in record and "completion" in record:
        if record["label"] not in (True, False):
            raise Fault(f"label is {record['label']!r}: true (a good answer) or false is needed")
        answer = _after(prompt, _messages(record, "completion"))
        return prompt, answer if record["label"] else None, None if record["label"] else answer, tools
    if absent := [name for name in ("chosen", "rejected") if record.get(name) is None]:
        raise Fault(
            f"no {' and no '.join(absent)}: a pair is prompt, chosen, rejected; an answer to judge, for loss_type "
            f"kto, is prompt, completion, label. There are {', '.join(record)}"
        )
    chosen, rejected = _messages(record, "chosen"), _messages(record, "rejected")
    if chosen == rejected:
        raise Fault("chosen and rejected are the same")
    if not prompt:
        same = [a == b for a, b in zip(chosen, rejected, strict=False)]
        prompt = chosen[: same.index(False) if False in same else len(same)]
        if not prompt:
            raise Fault("no prompt: neither a column (prompt, question, instruction, conversations) nor messages that "
                        "chosen and rejected begin with alike")  # fmt: skip
    return prompt, _after(prompt, chosen), _after(prompt, rejected), tools


def prompt_of(record: Mapping[str, Any]) -> Messages:
    """The prompt of a row, whatever it is called; [] if there is none."""
    if record.get("instruction") is not None:
        return chat.to_chat({**record, "output": "-"}, "instruction").prompt  # type: ignore[return-value]
    found: Any = next((record[name] for name in PROMPTS if record.get(name) is not None), [])
    messages = chat.read_messages(found, "user", "prompt") if found else []
    system = record.get("system")
    return chat.read_messages(system, "system", "system") + messages if system else messages


def _messages(record: Mapping[str, Any], name: str) -> Messages:
    value = record[name]
    return chat.read_messages([value] if isinstance(value, Mapping) else value, "assistant", name)


def _after(prompt: Messages, answer: Messages) -> Messages:
    """The answer alone, of one that may begin with its prompt (without the prompt's system message, perhaps).

    Raises:
        Fault: nothing follows the prompt, or not the assistant.
    """
    for start in (prompt, [message for message in prompt if message["role"] != "system"]):
        if answer[: len(start)] == start:
            answer = answer[len(start) :]
    if not answer or answer[0]["role"] != "assistant":
        what = f"a message of {answer[0]['role']}" if answer else "nothing"
        raise Fault(f"after the prompt comes {what}, where the assistant's answer is needed")
    return answer


def load_preferences(config: DataConfig, *, seed: int, unpaired: bool = False) -> dict[str, Dataset]:
    """Rows {"prompt", "chosen", "rejected", "tools"} of each split. `unpaired`: answers with a label will do."""

    def convert(record: dict[str, Any]) -> tuple[Any, ...]:
        found = to_preference(record)
        if None in found and not unpaired:
            raise Fault("an answer with a label, and no pair: set loss_type kto")
        return found

    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    columns = {"record": ""}
    return load_splits(
        config, columns=columns, seed=seed, compare=COLUMNS[:3], read=chat.as_json(convert), schema=schema
    )


def tokenize_preferences(rows: Dataset, template: chat.Template, config: Any, *, unpaired: bool = False) -> Dataset:
    """Examples of two sequences: "first_input_ids", "first_labels", "second_input_ids", "second_labels", where labels
    are -100 but in the answer. Of a pair first the chosen, then the rejected answer. `unpaired`, for KTO: first an
    answer that is judged, then another row's answer, drawn once by the seed, to the same prompt; and "desirable".

    Sequences of more than max_length tokens are cut there, and counted in the attribute `counts`: "truncated".

    Args:
        config: a `ChatConfig`, `DataConfig` and `TrainConfig`, for max_length, max_bad_rows and seed.

    Raises:
        ValueError: more than max_bad_rows rows cannot be used: the template refuses them, or of an answer nothing is
            left within max_length.
    """
    pairs = _judged(rows, config.seed) if unpaired else rows.rename_columns({"chosen": "first", "rejected": "second"})
    schema = pa.schema([(name, TOKENS) for names in zip(IDS, LABELS, strict=True) for name in names])
    if unpaired:
        schema = schema.append(pa.field("desirable", pa.bool_()))

    def convert(batch: dict[str, list[Any]]) -> tuple[dict[str, list[Any]], Counter[str]]:
        columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        counts: Counter[str] = Counter()
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            try:
                example = _encode(template, row, config.max_length)
            except Fault as fault:
                counts[f"{REFUSED}{row['prompt']:.80}: {fault}"] += 1
                continue
            counts["truncated"] += example.pop("truncated")
            for name, column in columns.items():
                column.append(example[name])
        return columns, counts

    examples = text.tokenized(
        pairs, template.tokenizer, convert, schema=schema, arguments=["preference", config.max_length]
    )
    check_refused(rows, examples, config.max_bad_rows)
    if cut := examples.counts["truncated"]:
        said = (of_split(rows), cut, 2 * len(examples), config.max_length)
        logger.warning("%s%d of %d answers are cut at max_length = %d tokens", *said)
    return examples


def _encode(template: chat.Template, row: dict[str, Any], max_length: int) -> dict[str, Any]:
    example: dict[str, Any] = {"desirable": row.get("desirable"), "truncated": 0}
    prompt, tools = json.loads(row["prompt"]), json.loads(row["tools"])
    for side in ("first", "second"):
        ids, labels = template.encode(prompt, json.loads(row[side]), tools)
        if set(labels[:max_length]) == {IGNORE}:
            raise Fault(f"it is cut before the answer, at max_length = {max_length} tokens")
        example["truncated"] += len(ids) > max_length
        example[f"{side}_input_ids"], example[f"{side}_labels"] = ids[:max_length], labels[:max_length]
    return example


def _judged(rows: Dataset, seed: int) -> Dataset:
    """A row for each answer: "first" with "desirable", and as "second" the answer of another row. The rows are drawn up
    in a ring by `seed`, and each has the answer of the next."""
    from datasets import Dataset

    answers = [
        {"prompt": row["prompt"], "first": row[side], "tools": row["tools"], "desirable": side == "chosen"}
        for row in rows
        for side in ("chosen", "rejected")
        if row[side] != "null"
    ]
    if len(answers) < 2:
        raise ValueError("loss_type kto sets an answer beside another row's: there must be two at least")
    ring = np.argsort(np.random.Philox(key=[seed, len(answers)]).random_raw(len(answers)), kind="stable")
    following = dict(zip(ring.tolist(), np.roll(ring, -1).tolist(), strict=True))
    return Dataset.from_list([row | {"second": answers[following[i]]["first"]} for i, row in enumerate(answers)])


def describe(rows: dict[str, Dataset], examples: dict[str, Any], lengths: dict[str, np.ndarray]) -> dict[str, Any]:
    """For the report: of each split the rows, what was left out, leaked and cut, and the tokens."""
    described = {}
    for name, split in rows.items():
        described[name] = {
            "rows": len(split),
            "examples": len(examples[name]),
            "unusable rows left out": len(split.bad) + examples[name].refused,
            "rows that stand in train": "" if name == "train" else split.leaks.rows,
            "prompts that stand in train": "" if name == "train" else split.leaks.inputs,
            "answers cut": examples[name].counts["truncated"],
            "tokens, mean": float(lengths[name].mean()),
            "longest": int(lengths[name].max()),
        }
    return described
