"""Questions, each with a context and the answers that stand in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.data import readers
from hftrain.data.splits import load_splits
from hftrain.data.squad import read_squad
from hftrain.data.unread import Unread
from hftrain.data.written import unwritten_or_text
from hftrain.tasks.answering.config import AnswerConfig, AnsweringConfig

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

ROW = pa.schema(
    [(name, pa.string()) for name in ("title", "context", "question", "id")]
    + [("answers", pa.list_(pa.string())), ("starts", pa.list_(pa.int64()))]
)


def load_questions(config: AnswerConfig, seed: int) -> dict[str, Rows]:
    """Rows {"title", "context", "question", "id", "answers", "starts"} of each split; rows of one title stay together.

    Raises:
        ValueError: rows that cannot be used, of which an answer that does not stand where it should is one.
    """
    unread = Unread()
    read = partial(read_question, config=config, unread=unread)
    compare = ["title", "context", "question"]
    reading: dict[str, Any] = {"read": read, "schema": ROW, "reader": squad_reader(config), "seed": seed}
    rows = load_splits(config, columns={"row": ""}, compare=compare, score="an exact match", **reading)
    unread.warn()
    if not any(rows["train"]["answers"]):
        raise ValueError(f"none of {len(rows['train'])} training questions has an answer: look at answers_column")
    return rows


def squad_reader(config: AnswerConfig) -> Callable[..., Iterator[readers.Item] | None]:
    """`read_squad` with the columns as `config` names them."""
    names = {"question": config.question_column, "context": config.context_column, "answers": config.answers_column}
    names |= {"title": config.group_column}

    def renamed(items: Iterator[readers.Item]) -> Iterator[readers.Item]:
        for line, values in items:
            if not isinstance(values, readers.Fault):
                values = [{names.get(key, key): value for key, value in values[0].items()}]
            yield line, values

    return lambda path: renamed(items) if (items := read_squad(path, config.encoding)) else None


def read_question(values: list[Any], names: list[str], *, config: AnsweringConfig, unread: Unread) -> list[Any]:
    """The columns of `ROW`; `unread` counts the others. Raises: readers.Fault."""
    (row,) = values
    asked = (config.context_column, config.question_column, config.answers_column, config.group_column)
    unread.count(row, [*asked, config.answer_start_column, "id"])
    for column in (config.context_column, config.question_column, config.answers_column):
        if column not in row:
            raise readers.Fault(readers.missing(column, row))
    context = readers.text(row[config.context_column], f"column {config.context_column!r}")
    question = readers.text(row[config.question_column], f"column {config.question_column!r}")
    name = str(row.get("id") or question)
    texts, places = read_answers(row[config.answers_column], config.answers_column, row.get(config.answer_start_column))
    starts = [
        find_start(answer, start, context, f"question {name!r}", config)
        for answer, start in zip(texts, places, strict=True)
    ]
    title = row.get(config.group_column) or context
    return [str(title), context, question, name, texts, starts]


def read_answers(value: Any, column: str, starts: Any = None) -> tuple[list[str], list[int | None]]:
    """Texts and where they begin, of {"text", "answer_start"} (a list in each, or one value), of a list of such, or of
    texts alone, which begin at `starts`, if that is known; null, or nothing in it: no answer. Lists and objects may
    have been written as text. Raises: readers.Fault."""
    value, starts = unwritten_or_text(value), unwritten_or_text(starts)
    starts = starts if isinstance(starts, list) else [starts]
    value = value if isinstance(value, list) else [value] if value else []
    if all(isinstance(each, str) for each in value):
        value = [each for each in value if each.strip()]
        if not value and any(read_start(start) not in (None, -1, 0) for start in starts):
            raise readers.Fault(f"column {column!r} is empty, but there is an answer_start: {starts!r:.60}")
        value = [{"text": value, "answer_start": starts if starts != [None] else [None] * len(value)}] if value else []
    found: list[tuple[Any, Any]] = []
    for each in value:
        if not isinstance(each, dict) or "text" not in each:
            raise readers.Fault(f"column {column!r} has no text and answer_start: {each!r:.60}")
        texts = each["text"] if isinstance(each["text"], list) else [each["text"]]
        places = each.get("answer_start", [None] * len(texts))
        places = places if isinstance(places, list) else [places]
        if len(texts) != len(places):
            raise readers.Fault(f"column {column!r} has {len(texts)} text but {len(places)} answer_start")
        found += zip(texts, map(read_start, places), strict=True)
    for answer, _ in found:
        readers.text(answer, f"an answer in column {column!r}")
    return [answer for answer, _ in found], [start for _, start in found]


def read_start(value: Any) -> int | None:
    """A place in a text, also one that a table holds as text or as 49.0; None of nothing. Raises: readers.Fault."""
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.5
    if isinstance(value, bool) or not number.is_integer():
        raise readers.Fault(f"answer_start is not a whole number: {value!r}")
    return int(number)


def find_start(answer: str, start: int | None, context: str, name: str, config: AnsweringConfig) -> int:
    """The character of the context from which the answer stands. Raises: readers.Fault."""
    at = context.find(answer)
    if start is None:
        if at < 0 or context.find(answer, at + 1) >= 0:
            often = "is not in its context" if at < 0 else "is in its context more than once: which one is meant"
            way_out = "" if at < 0 else f" says its start, in characters (column {config.answer_start_column!r})"
            raise readers.Fault(f"{name}: the answer {answer!r:.60} has no start, and {often}{way_out}")
        return at
    found = context[start : start + len(answer)] if start >= 0 else ""
    if found != answer:
        where = f"; it stands at {at}" if at >= 0 else "; nor is it anywhere in it"
        raise readers.Fault(
            f"{name}: the answer {answer!r:.60} is not at character {start} of its context, "
            f"where {found!r:.60} stands{where}"
        )
    return start
