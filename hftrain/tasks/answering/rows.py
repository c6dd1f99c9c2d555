"""Questions, each with a context and the answers that it contains."""

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
        ValueError: a row cannot be used, for example since its answer is not at answer_start.
    """
    unread = Unread()
    read = partial(read_question, config=config, unread=unread)
    compare = ["title", "context", "question"]
    reading: dict[str, Any] = {"read": read, "schema": ROW, "reader": squad_reader(config), "seed": seed}
    rows = load_splits(config, columns={"row": ""}, compare=compare, score="an exact match", **reading)
    unread.warn()
    if not any(rows["train"]["answers"]):
        raise ValueError(f"none of {len(rows['train'])} training questions has an answer: check answers_column")
    return rows


def squad_reader(config: AnswerConfig) -> Callable[..., Iterator[readers.Item] | None]:
    """`read_squad` with the column names of `config`."""
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
    columns = (config.context_column, config.question_column, config.answers_column, config.group_column)
    unread.count(row, [*columns, config.answer_start_column, "id"])
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
    """Texts and their starts, from {"text", "answer_start"} (a list in each, or one value), from a list of such
    objects, or from texts alone, which begin at `starts` if it is given. Null or an empty value: no answer. Lists and
    objects may be written as text. Raises: readers.Fault."""
    value, starts = unwritten_or_text(value), unwritten_or_text(starts)
    starts = starts if isinstance(starts, list) else [starts]
    value = value if isinstance(value, list) else [value] if value else []
    if all(isinstance(item, str) for item in value):
        value = [item for item in value if item.strip()]
        if not value and any(read_start(start) not in (None, -1, 0) for start in starts):
            raise readers.Fault(f"column {column!r} is empty, but answer_start is not: {starts!r:.60}")
        value = [{"text": value, "answer_start": starts if starts != [None] else [None] * len(value)}] if value else []
    pairs: list[tuple[Any, Any]] = []
    for item in value:
        if not isinstance(item, dict) or "text" not in item:
            raise readers.Fault(f"column {column!r} lacks text and answer_start: {item!r:.60}")
        texts = item["text"] if isinstance(item["text"], list) else [item["text"]]
        places = item.get("answer_start", [None] * len(texts))
        places = places if isinstance(places, list) else [places]
        if len(texts) != len(places):
            counts = f"{len(texts)} text, {len(places)} answer_start"
            raise readers.Fault(f"column {column!r} has lists of different lengths: {counts}")
        pairs += zip(texts, map(read_start, places), strict=True)
    for answer, _ in pairs:
        readers.text(answer, f"an answer in column {column!r}")
    return [answer for answer, _ in pairs], [start for _, start in pairs]


def read_start(value: Any) -> int | None:
    """A position in a text, also if a table has it as text or as 49.0; None if empty. Raises: readers.Fault."""
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
    """The position of the answer's first character in the context. Raises: readers.Fault."""
    at = context.find(answer)
    if start is None:
        if at < 0 or context.find(answer, at + 1) >= 0:
            often = "is not in its context" if at < 0 else "is in its context more than once"
            way_out = "" if at < 0 else f": give its start, in characters (column {config.answer_start_column!r})"
            raise readers.Fault(f"{name}: the answer {answer!r:.60} has no start, and {often}{way_out}")
        return at
    text = context[start : start + len(answer)] if start >= 0 else ""
    if text != answer:
        where = f"; it is at {at}" if at >= 0 else "; the context does not contain it"
        raise readers.Fault(
            f"{name}: the answer {answer!r:.60} is not at character {start} of its context, but {text!r:.60}{where}"
        )
    return start
