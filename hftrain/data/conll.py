"""Reader of CoNLL columns: one word per line with its tags in columns, a blank line after each sentence."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from hftrain.data.readers import PEEKED, Fault, Item, check_text, decode, raw_lines

logger = logging.getLogger(__name__)

NO_WORD = ("#", "-DOCSTART-")
# Usual names of the columns, after `plain`.
WORDS = {"word", "words", "token", "tokens", "form"}
TAGS = {"tag", "tags", "ner", "ner_tag", "ner_tags", "label", "labels", "bio", "iob"}


def plain(name: str) -> str:
    """The name of a column in lower case and without signs: "Sentence #" becomes "sentence"."""
    return re.sub(r"[^a-z]+", "_", name.lower()).strip("_")


def read_conll(path: Path, **how: Any) -> Iterator[Item]:
    """Sentences as (line of the first word, [words, tags]), or as (faulty line, Fault); see `read_lines`."""
    for numbers, values in read_lines(path, **how):
        yield numbers[0], values


def read_lines(
    path: Path, *, word_column: int | None = None, tag_column: int | None = None, encoding: str | None = None
) -> Iterator[tuple[list[int], list[list[str]] | Fault]]:
    """Sentences as (the line of each word, [words, tags]), or as (faulty line, Fault).

    TABs separate the columns, or spaces if the line of the file's first word has no TAB; all lines have the same number
    of columns. These lines are not words: `-DOCSTART-`; comments, which start with "#", come before a sentence's first
    word and have another number of columns; a first line that names the columns (word, tag); and in `.conllu`
    (Universal Dependencies) contractions (number 3-4) and omitted words (5.1), which are listed beside the words
    themselves.

    Args:
        word_column, tag_column: counted from 1, or from the end (-1 is the last). None: the first and the last, in
            `.conllu` 2 and 4 (part of speech).
    """
    check_text(path, encoding)
    universal = ".conllu" in path.suffixes
    columns = {"word": word_column or (2 if universal else 1), "tag": tag_column or (4 if universal else -1)}
    lines = (raw.decode(errors="replace").rstrip("\r\n") for _, raw in raw_lines(path, encoding) if raw.strip())
    sample = min(lines, key=lambda line: line.startswith(NO_WORD), default="")  # the first that certainly has a word
    separator = "\t" if "\t" in sample else " +"
    width = len(re.split(separator, sample.strip(" ")))
    for name, column in columns.items():
        if abs(column) > width:
            raise ValueError(
                f"{path} has only {width} columns: column {column} for the {name} does not exist ({name}_column)"
            )

    for blank, sentence in groupby(raw_lines(path, encoding), key=lambda line: not line[1].strip()):
        numbers: list[int] = []
        values: dict[str, list[str]] = {"word": [], "tag": []}
        for number, raw in () if blank else sentence:
            try:
                line = decode(raw).rstrip("\r\n")
                fields = re.split(separator, line.strip(" "))
                if line.startswith("-DOCSTART-") or (line.startswith("#") and not numbers and len(fields) != width):
                    continue
                if len(fields) != width:
                    between = "a TAB" if separator == "\t" else "spaces"
                    raise Fault(f"{len(fields)} columns, expected {width} separated by {between}: {line!r:.60}")
                if universal and not fields[0].isdigit():
                    continue
                word, tag = (fields[column - (column > 0)] for column in columns.values())
                if line == sample and not numbers and plain(word) in WORDS and plain(tag) in TAGS:
                    logger.warning("%s, line %d names the columns and is not read as a word: %r", path, number, line)
                    sample = ""
                    continue
                for name, column in columns.items():
                    value = fields[column - (column > 0)].strip()
                    if not value:
                        raise Fault(f"no {name} in column {column}: {line!r:.60}")
                    values[name].append(value)
                numbers.append(number)
            except Fault as fault:
                yield [number], fault
                break
        else:
            if numbers:
                yield numbers, [*values.values()]


def is_tagged(path: Path, tags: Collection[str], encoding: str | None = None) -> bool:
    """Whether the first lines of a text file have as many columns each, of which the last is one of `tags`."""
    lines = (raw.decode(errors="replace").strip() for _, raw in raw_lines(path, encoding) if raw.strip())
    rows = [line.split() for line in islice((line for line in lines if not line.startswith(NO_WORD)), PEEKED)]
    return len({len(row) for row in rows}) == 1 < len(rows[0]) and all(row[-1] in tags for row in rows)


def with_tags(path: Path, tags: Mapping[int, str], encoding: str | None = None) -> Iterator[str]:
    """The lines of a file, those in `tags` with their tag in a new last column, or in `.conllu`, whose
    format has ten columns, in the fourth."""
    for number, raw in raw_lines(path, encoding):
        line = decode(raw).rstrip("\r\n")
        if ".conllu" in path.suffixes:
            fields = line.split("\t")
            yield "\t".join([*fields[:3], tags[number], *fields[4:]]) if number in tags else line
        elif not line.strip() or (line.startswith(NO_WORD) and number not in tags):
            yield line
        else:  # the first line may be a header
            separator = " " if "\t" not in line and " " in line.strip() else "\t"
            yield f"{line.rstrip(' ')}{separator}{tags.get(number, 'tag')}"
