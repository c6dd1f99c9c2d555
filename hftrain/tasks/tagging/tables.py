"""Sentences of tables (csv, tsv, xlsx) with one word per row."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from hftrain.data import readers
from hftrain.data.conll import TAGS, WORDS, plain
from hftrain.data.lines import Dialect
from hftrain.data.sources import SPREADSHEETS, ending, open_file
from hftrain.data.written import looks_written

if TYPE_CHECKING:
    from hftrain.tasks.tagging.config import TaggingConfig

logger = logging.getLogger(__name__)

SENTENCES = re.compile(r"(sentence|sent)(_(id|idx|index|no|number|num))?|sid")
ONE_WORD = {"word", "token", "form"}


def read_table(path: Path, config: TaggingConfig, dialect: Dialect) -> Iterator[readers.Item] | None:
    """Sentences as (line of the first word, [{tokens_column: words, tags_column: tags}]), or a fault in place of the
    list; None if the file is not a table, or has a whole sentence in each row.

    A sentence ends before the next value in the sentence column (which may be filled at the first word only), or, if no
    column numbers the sentences, at the next blank line.

    Raises:
        ValueError: the table lacks `sentence_column`.
    """
    if ending(path) not in (*SPREADSHEETS, ".tsv"):
        return None
    items = iter(open_file(path, {"row": ""}, dialect).items)
    first = next(items, None)
    if first is None or isinstance(first[1], readers.Fault):
        return None
    header = first[1][0].keys()
    word = column(header, [config.tokens_column], WORDS.__contains__)
    tag = column(header, [config.tags_column], TAGS.__contains__)
    sentence = column(header, [config.sentence_column], lambda name: bool(SENTENCES.fullmatch(name)))
    if config.sentence_column and sentence != config.sentence_column:
        raise ValueError(f"{path}: {readers.missing(config.sentence_column, header)} (sentence_column)")
    if word is None or tag is None or not (sentence or plain(word) in ONE_WORD):
        return None
    if looks_written(first[1][0][word]) or len(first[1][0][word].split()) > 1:
        return None  # a list, or a whole sentence
    ours = [name for name in (sentence, word, tag) if name]
    ignored = ", ".join(name for name in header if name not in ours) or "none"
    logger.warning("%s is read with one word per row, columns %s; ignored columns: %s", path, ", ".join(ours), ignored)
    return read_sentences(chain([first], items), word, tag, sentence, config)


def column(header: Iterable[str], names: Iterable[str | None], is_known: Callable[[str], bool]) -> str | None:
    """The first of `names` that `header` has, else the first name that `is_known` accepts."""
    header = list(header)
    return next((name for name in names if name in header), next((n for n in header if is_known(plain(n))), None))


def read_sentences(
    items: Iterator[readers.Item], word: str, tag: str, sentence: str | None, config: TaggingConfig
) -> Iterator[readers.Item]:
    """The sentences of `read_table`, by the names of its columns."""
    names = (config.tokens_column, config.tags_column or "tags")
    begin, last, current = 0, 0, ""
    words: list[str] = []
    tags: list[str] = []
    fault: tuple[int, readers.Fault] | None = None
    seen: set[str] = set()

    def finished() -> Iterator[readers.Item]:
        if fault:
            yield fault
        elif words:
            yield begin, [{names[0]: list(words), names[1]: list(tags)}]

    for line, values in items:
        row: dict[str, str] = {} if isinstance(values, readers.Fault) else values[0]
        number = (row.get(sentence) or "").strip() if sentence else ""
        if (number and number != current) if sentence else line > last + 1:
            yield from finished()
            words, tags, fault, begin, current = [], [], None, line, number
            if sentence and number in seen:
                why = f"the sentence {number!r} is in two places: keep its words together, or renumber one"
                fault = line, readers.Fault(why)
            seen.add(number)
        begin, last = begin or line, line
        if isinstance(values, readers.Fault):
            fault = fault or (line, values)
            continue
        for name, column_values in ((word, words), (tag, tags)):
            if not row[name].strip() and not fault:
                fault = line, readers.Fault(f"column {name!r} is empty, in a table with one word per row")
            column_values.append(row[name].strip())
    yield from finished()
