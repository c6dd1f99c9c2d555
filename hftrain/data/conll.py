"""Reader of CoNLL columns: a word a line, its tags in columns beside it, a blank line after each sentence."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from hftrain.data.readers import Fault, Item, check_text, decode, raw_lines

logger = logging.getLogger(__name__)

NO_WORD = ("#", "-DOCSTART-")
# Usual names of the columns, as `plain` has them.
WORDS = {"word", "words", "token", "tokens", "form"}
TAGS = {"tag", "tags", "ner", "ner_tag", "ner_tags", "label", "labels", "bio", "iob"}


def plain(name: str) -> str:
    """The name of a column without case and signs: "Sentence #" is "sentence"."""
    return re.sub(r"[^a-z]+", "_", name.lower()).strip("_")


def read_conll(
    path: Path, *, word_column: int | None = None, tag_column: int | None = None, encoding: str | None = None
) -> Iterator[Item]:
    """Sentences as (line of the first word, [words, tags]), or why one is none, with the line that is at fault.

    Columns stand between TABs, or between spaces where the file's first word has no TAB on its line; every line has as
    many as that one. `-DOCSTART-` is no word, nor is a comment: a line that starts with "#", stands before a sentence's
    first word and has not that many columns; nor is a first line that names the columns (word, tag). In `.conllu`
    (Universal Dependencies) neither are contractions (number 3-4) and omitted words (5.1), which stand beside the words
    they are about.

    Args:
        word_column, tag_column: from 1, or from the end: -1 is the last. None: the first and the last, but of `.conllu`
            2 and 4, the part of speech.
    """
    check_text(path, encoding)
    universal = ".conllu" in path.suffixes
    columns = {"word": word_column or (2 if universal else 1), "tag": tag_column or (4 if universal else -1)}
    lines = (raw.decode(errors="replace").rstrip("\r\n") for _, raw in raw_lines(path, encoding) if raw.strip())
    sample = min(lines, key=lambda line: line.startswith(NO_WORD), default="")  # the first that is surely a word's
    separator = "\t" if "\t" in sample else " +"
    width = len(re.split(separator, sample.strip(" ")))
    for name, column in columns.items():
        if abs(column) > width:
            raise ValueError(f"{path} has {width} columns, so no column {column} for the {name} ({name}_column)")

    for blank, sentence in groupby(raw_lines(path, encoding), key=lambda line: not line[1].strip()):
        first = 0
        found: dict[str, list[str]] = {"word": [], "tag": []}
        for number, raw in () if blank else sentence:
            try:
                line = decode(raw).rstrip("\r\n")
                fields = re.split(separator, line.strip(" "))
                if line.startswith("-DOCSTART-") or (line.startswith("#") and not first and len(fields) != width):
                    continue
                if len(fields) != width:
                    between = "a TAB" if separator == "\t" else "spaces"
                    raise Fault(f"{len(fields)} columns, expected {width} separated by {between}: {line!r:.60}")
                if universal and not fields[0].isdigit():
                    continue
                word, tag = (fields[column - (column > 0)] for column in columns.values())
                if line == sample and not first and plain(word) in WORDS and plain(tag) in TAGS:
                    logger.warning("%s, line %d names the columns, and is no word: %r", path, number, line)
                    sample = ""
                    continue
                for name, column in columns.items():
                    value = fields[column - (column > 0)].strip()
                    if not value:
                        raise Fault(f"no {name} in column {column}: {line!r:.60}")
                    found[name].append(value)
                first = first or number
            except Fault as fault:
                yield number, fault
                break
        else:
            if first:
                yield first, [*found.values()]
