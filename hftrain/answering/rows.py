"""Questions, each with a context and the answers that stand in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.answering.settings import AnsweringConfig
from hftrain.data import readers
from hftrain.data.squad import read_squad
from hftrain.splits import load_splits

if TYPE_CHECKING:
    from datasets import Dataset

ROW = pa.schema(
    [(name, pa.string()) for name in ("title", "context", "question", "id")]
    + [("answers", pa.list_(pa.string())), ("starts", pa.list_(pa.int64()))]
)


def load_questions(config: Any, seed: int) -> dict[str, Dataset]:
    """Rows {"title", "context", "question", "id", "answers", "starts"} of each split; rows of one title stay together.

    Raises:
        ValueError: rows that cannot be used, of which an answer that does not stand where it should is one.
    """
    read = partial(read_question, config=config)
    compare = ["title", "context", "question"]
    reading: dict[str, Any] = {"read": read, "schema": ROW, "reader": squad_reader(config), "seed": seed}
    rows = load_splits(config, columns={"row": ""}, compare=compare, **reading)
    if not any(rows["train"]["answers"]):
        raise ValueError(f"none of {len(rows['train'])} training questions has an answer: look at answers_column")
    return rows


def squad_reader(config: AnsweringConfig) -> Callable[..., Iterator[readers.Item] | None]:
    """`read_squad` with the columns as `config` names them."""
    names = {"question": config.question_column, "context": config.context_column, "answers": config.answers_column}
    names |= {"title": config.group_column}

    def renamed(items: Iterator[readers.Item]) -> Iterator[readers.Item]:
        for line, values in items:
            if not isinstance(values, readers.Fault):
                values = [{names.get(key, key): value for key, value in values[0].items()}]
            yield line, values

    return lambda path: renamed(items) if (items := read_squad(path)) else None


def read_question(values: list[Any], names: list[str], *, config: AnsweringConfig) -> list[Any]:
    """The columns of `ROW`. Raises: readers.Fault."""
    (row,) = values
    for column in (config.context_column, config.question_column, config.answers_column):
        if column not in row:
            raise readers.Fault(readers.missing(column, row))
    context = readers.text(row[config.context_column], f"column {config.context_column!r}")
    question = readers.text(row[config.question_column], f"column {config.question_column!r}")
    name = str(row.get("id") or question)
    answers, starts = read_answers(row[config.answers_column], config.answers_column)
    for answer, start in zip(answers, starts, strict=True):
        found = context[start : start + len(answer)] if start >= 0 else ""
        if found != answer:
            at = context.find(answer)
            where = f"; it stands at {at}" if at >= 0 else "; nor is it anywhere in it"
            raise readers.Fault(
                f"question {name!r}: the answer {answer!r:.60} is not at character {start} of its context, "
                f"where {found!r:.60} stands{where}"
            )
    title = row.get(config.group_column) or context
    return [str(title), context, question, name, answers, starts]


def read_answers(value: Any, column: str) -> tuple[list[str], list[int]]:
    """Texts and where they begin, of {"text", "answer_start"} (a list in each, or one value), or of a list of such;
    null, or nothing in it: no answer. Raises: readers.Fault."""
    found: list[tuple[Any, Any]] = []
    for each in value if isinstance(value, list) else [value] if value else []:
        if not isinstance(each, dict) or not {"text", "answer_start"} <= each.keys():
            raise readers.Fault(f"column {column!r} has no text and answer_start: {each!r:.60}")
        texts, starts = (v if isinstance(v, list) else [v] for v in (each["text"], each["answer_start"]))
        if len(texts) != len(starts):
            raise readers.Fault(f"column {column!r} has {len(texts)} text but {len(starts)} answer_start")
        found += zip(texts, starts, strict=True)
    for answer, start in found:
        readers.text(answer, f"an answer in column {column!r}")
        if not isinstance(start, int):
            raise readers.Fault(f"answer_start is not a whole number: {start!r}")
    return [answer for answer, _ in found], [start for _, start in found]
