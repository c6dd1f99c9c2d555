"""Sentences of words with a tag each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.data import readers
from hftrain.data.conll import read_conll
from hftrain.data.lines import Dialect, raw_lines
from hftrain.data.sources import COLUMNAR, JSON, SPREADSHEETS, ending
from hftrain.data.splits import dialect_of, load_splits
from hftrain.data.unread import Unread
from hftrain.data.written import unwritten_or_text
from hftrain.tasks.tagging.config import TagConfig, TaggingConfig
from hftrain.tasks.tagging.labels import find_scheme, scheme_fault
from hftrain.tasks.tagging.spans import tag_words
from hftrain.tasks.tagging.tables import read_table

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

ROW = pa.schema([("tokens", pa.list_(pa.string())), ("tags", pa.list_(pa.string()))])
OF_WORDS = ("tags", "ner_tags", "labels")  # usual columns, in order of preference
OF_TEXTS = (*OF_WORDS, "entities", "spans", "label")


def load_sentences(config: TagConfig, seed: int) -> tuple[dict[str, Rows], str]:
    """Rows {"tokens", "tags"} of each split, and the scheme of the tags: IOB1, IOB2, BIOES, "any" or "none".

    A csv, tsv or xlsx file is a table with a word or a sentence per row. Any other text file that is not JSON is read
    as CoNLL columns, and so is a tsv file without such column names. Otherwise rows have lists of words and of tags
    (names or numbers of `label_names`), or texts with the spans of entities.

    Raises:
        ValueError: a row cannot be used, for example since a tag breaks the scheme; names the file and line.
    """

    def reader(path: Path) -> Iterator[readers.Item] | None:
        if (table := read_table(path, config, dialect_of(config))) or ending(path) in (*COLUMNAR, *JSON, *SPREADSHEETS):
            return table
        if ending(path) == ".tsv" and names_columns(path, config, dialect_of(config)):
            return None
        items = read_conll(path, word_column=config.word_column, tag_column=config.tag_column, encoding=config.encoding)
        names = (config.tokens_column, config.tags_column or "tags")
        return ((n, [dict(zip(names, v, strict=True))] if isinstance(v, list) else v) for n, v in items)

    def load(scheme: str) -> dict[str, Rows]:
        unread.clear()
        read = partial(read_sentence, config=config, scheme=scheme, unread=unread)
        reading: dict[str, Any] = {"read": read, "schema": ROW, "reader": reader, "seed": seed}
        return load_splits(config, columns={"row": ""}, compare=["tokens", "tags"], **reading)

    unread = Unread()
    rows = load("any")
    scheme = find_scheme(rows["train"]["tags"]) if config.label_scheme == "auto" else config.label_scheme
    if any(scheme_fault(tags, scheme) for split in rows.values() for tags in split["tags"]):
        rows = load(scheme)  # raises, with file and line
    unread.warn()
    return rows, scheme


def read_sentence(
    values: list[Any], names: list[str], *, config: TaggingConfig, scheme: str, unread: Unread
) -> list[list[str]]:
    """[words, tags] of a row; `unread` counts the other columns. Raises: readers.Fault."""
    (row,) = values
    columns = columns_of(row, config)
    unread.count(row, columns)
    words, tags = (read_list(row, column) for column in columns)
    if isinstance(words, str) and isinstance(tags, list) and not any(isinstance(tag, str) for tag in tags):
        words, tags = tag_words(words, tags)
    else:  # either column may hold a text, split at spaces
        words, tags = (part.split() if isinstance(part, str) else part for part in (words, tags))
    if len(words) != len(tags):
        raise readers.Fault(f"{len(words)} words, but {len(tags)} tags")
    if not words:
        raise readers.Fault("no words")
    for number, word in enumerate(words, 1):
        readers.text(word, f"word {number}")
    tags = [read_tag(tag, number, config.label_names) for number, tag in enumerate(tags, 1)]
    if fault := scheme_fault(tags, scheme):
        number, why = fault
        raise readers.Fault(f"word {number + 1}, {words[number]!r}: {why} (label_scheme {scheme})")
    return [words, tags]


def columns_of(row: Mapping[str, Any], config: TaggingConfig) -> list[str]:
    """The columns of the words (or the text) and of the tags (or the spans). Raises: readers.Fault."""
    words = config.tokens_column
    # Prodigy's format
    annotated = isinstance(row.get(words), list) and any(isinstance(word, dict) for word in row[words])
    if "text" in row and words == "tokens" and (words not in row or annotated):
        words = "text"
    usual = OF_TEXTS if isinstance(row.get(words), str) else OF_WORDS
    tags = config.tags_column or next((name for name in usual if name in row), "tags")
    for column in (words, tags):
        if column not in row:
            raise readers.Fault(readers.missing(column, row))
    return [words, tags]


def names_columns(path: Path, config: TaggingConfig, dialect: Dialect) -> bool:
    """Whether `column_names` or the first line names the columns of sentences."""
    first = next((line for _, line in raw_lines(path, dialect.encoding)), b"").decode(errors="replace")
    names = set(dialect.column_names or first.strip().split("\t"))
    words = {config.tokens_column, "text"} if config.tokens_column == "tokens" else {config.tokens_column}
    return bool(words & names) and bool({config.tags_column} & names if config.tags_column else set(OF_TEXTS) & names)


def read_list(row: Mapping[str, Any], column: str) -> list[Any] | str:
    """The list in a column, also if it is written as text; or else the text. Raises: readers.Fault."""
    value = unwritten_or_text(row[column])
    if not isinstance(value, list | str):
        kind = "null" if value is None else f"not a list but {type(value).__name__}: {value!r:.60}"
        raise readers.Fault(f"column {column!r} is {kind}")
    return value


def read_tag(tag: object, number: int, names: Sequence[str]) -> str:
    """The tag of a sentence's word `number`. Raises: readers.Fault."""
    if isinstance(tag, int) and not isinstance(tag, bool):
        if not names:
            raise readers.Fault(f"tag {number} is the number {tag}: name the tags of the numbers in label_names")
        if not 0 <= tag < len(names):
            hint = " (do they count from 1?)" if tag == len(names) else ""
            raise readers.Fault(
                f"tag {number} is {tag}, but label_names covers the numbers 0 to {len(names) - 1}{hint}"
            )
        return names[tag]
    tag = readers.text(tag, f"tag {number}")
    if names and tag not in names:
        raise readers.Fault(f"tag {number} is {tag!r}, not in label_names{readers.did_you_mean(tag, names)}")
    return tag
