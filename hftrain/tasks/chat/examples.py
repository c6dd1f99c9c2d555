"""Chats as examples of a causal language model."""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.data.examples import Examples
from hftrain.data.readers import Fault
from hftrain.data.rows import BadRow, Places, Rows, listed
from hftrain.losses import IGNORE
from hftrain.tasks.chat.messages import Message
from hftrain.tasks.chat.rows import is_learnt
from hftrain.tasks.chat.template import Template
from hftrain.text import tokenized
from hftrain.text.examples import TOKENS, of_split

if TYPE_CHECKING:
    from hftrain.tasks.chat.config import ChatRecipeConfig

logger = logging.getLogger(__name__)
REFUSED, NOTICE, FIRST = "refused: ", "notice: ", "first: "  # prefixes of the counts of examples


def tokenize(rows: Rows, template: Template, config: ChatRecipeConfig) -> Examples:
    """Rows of `load_chats` as examples {"input_ids", "labels"}; labels are -100 at tokens that are not learnt.

    `config` is a `SupervisedConfig` and a `DataConfig`. Conversations of more than `max_length` tokens are truncated.
    The counts are "truncated" and "refused" (rows left out). The log names what is unusual in rows that are used.

    Raises:
        ValueError: more than `max_bad_rows` rows cannot be used (`Template.encode`) or are cut before the answer.
    """
    max_length, split_turns = config.max_length, config.split_turns

    def encode(row: Mapping[str, str]) -> list[dict[str, Any]]:
        chat = map(json.loads, (row["prompt"], row["completion"], row["tools"]))
        encoded = [template.encode(*answer) for answer in answers_of(*chat, split=split_turns)]
        if any(set(labels[:max_length]) == {IGNORE} for _, labels in encoded):
            raise Fault(f"max_length = {max_length} tokens cuts it before the answer")
        return [
            {"input_ids": ids[:max_length], "labels": labels[:max_length], "truncated": len(ids) > max_length}
            for ids, labels in encoded
        ]

    schema = pa.schema([("input_ids", TOKENS), ("labels", TOKENS)])
    arguments = ["chat", max_length, split_turns]
    convert = row_by_row(encode, template, schema.names)
    examples = tokenized(rows, template.tokenizer, convert, schema=schema, arguments=arguments)
    examples = check_refused(rows, examples, template, config.max_bad_rows)
    if cut := examples.counts["truncated"]:
        values = (of_split(rows), cut, len(examples), 100 * cut / len(examples))
        logger.warning("%s%d of %d conversations (%.1f %%) are longer than max_length and are truncated", *values)
    return examples


def row_by_row(
    encode: Callable[[dict[str, Any]], list[dict[str, Any]]], template: Template, names: Sequence[str]
) -> Callable[[dict[str, list[Any]]], tuple[dict[str, list[Any]], Counter[str]]]:
    """A function for `tokenized` that calls `encode` for each row. `encode` returns examples with the columns `names`
    and "truncated", or raises `Fault`. The counts are "truncated"; REFUSED + row number (from 0) + reason; NOTICE + a
    notice of the template; FIRST + notice: the number of the first row that has it."""
    numbers, noticed = itertools.count(), set()
    template.notices.clear()

    def convert(batch: dict[str, list[Any]]) -> tuple[dict[str, list[Any]], Counter[str]]:
        columns: dict[str, list[Any]] = {name: [] for name in names}
        counts: Counter[str] = Counter()
        for number, values in zip(numbers, zip(*batch.values(), strict=True)):  # noqa: B905  the numbers continue
            row = dict(zip(batch, values, strict=True))
            try:
                examples = encode(row)
            except Fault as fault:
                counts[f"{REFUSED}{number} {fault}"] += 1
                examples = []
            for example in examples:
                counts["truncated"] += example["truncated"]
                for name, column in columns.items():
                    column.append(example[name])
            for notice in template.notices if examples else ():
                counts[NOTICE + notice] += 1
                if notice not in noticed:
                    noticed.add(notice)
                    counts[FIRST + notice] = number
            template.notices.clear()
        return columns, counts

    return convert


def check_refused(rows: Rows, examples: Examples, template: Template, max_bad_rows: int) -> Examples:
    """Logs what `row_by_row` counted in `examples.counts`, each notice once.

    Returns:
        the examples with the counts "truncated" and "refused" (rows left out here).

    Raises:
        ValueError: these and the rows left out at reading (`rows.bad`) are more than `max_bad_rows`.
    """
    rows = Rows.of(rows)
    places = rows.places or Places.counted(len(rows))
    refused: list[BadRow] = []
    for name, count in examples.counts.items():
        if name.startswith(REFUSED):
            number, _, reason = name.removeprefix(REFUSED).partition(" ")
            refused.append(places.bad(int(number), reason))
        elif name.startswith(NOTICE) and (notice := name.removeprefix(NOTICE)) not in template.warned:
            template.warned.add(notice)
            first = places.bad(examples.counts[FIRST + notice], notice)
            logger.warning("%s (%s of %s rows)", first, f"{count:,}", f"{len(rows):,}")
    if refused and len(refused) + len(rows.bad) > max_bad_rows:
        raise ValueError(
            f"{len(refused)} of {len(rows)} rows cannot be learnt from, max_bad_rows is {max_bad_rows}; the first "
            f"{min(len(refused), 10)}:\n{listed(refused)}\nCorrect them, or change the setting that is named; "
            "max_bad_rows is the number of rows that may be left out."
        )
    for row in refused:
        logger.warning("left out: %s", row)
    return examples.replaced(counts=Counter(truncated=examples.counts["truncated"], refused=len(refused)))


def answers_of(
    prompt: list[Message] | str, completion: list[Message], tools: list[Any], *, split: bool
) -> Iterator[tuple[list[Message] | str, list[Message], list[Any]]]:
    """The conversation as one chat, or as one chat for each of its answers, in which only that answer is learnt."""
    if not split or isinstance(prompt, str):
        yield prompt, completion, tools
        return
    for number, message in enumerate(completion):
        if is_learnt(message):
            yield prompt + completion[:number], [message], tools
