"""Sentences of words with a tag each, and the schemes in which tags spell entities."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.data import readers
from hftrain.data.conll import read_conll
from hftrain.data.lines import raw_lines
from hftrain.data.names import report_names
from hftrain.data.sources import COLUMNAR, JSON, ending
from hftrain.data.splits import load_splits
from hftrain.data.unread import Unread
from hftrain.data.written import unwritten_or_text
from hftrain.tasks.tagging.config import TaggingConfig
from hftrain.tasks.tagging.spans import tag_words
from hftrain.tasks.tagging.tables import read_table

if TYPE_CHECKING:
    from datasets import Dataset

ROW = pa.schema([("tokens", pa.list_(pa.string())), ("tags", pa.list_(pa.string()))])
OF_WORDS = ("tags", "ner_tags", "labels")  # usual columns, the first that is there
OF_TEXTS = (*OF_WORDS, "entities", "spans", "label")
PREFIXED = re.compile(r"([BIOESLU])-(.+)", re.DOTALL)


def load_sentences(config: Any, seed: int) -> tuple[dict[str, Dataset], str]:
    """Rows {"tokens", "tags"} of each split, and the scheme of the tags: IOB1, IOB2, BIOES, "any" or "none".

    A csv or tsv file is a table with a word or a sentence a row; CoNLL columns are any other text file that is not
    JSON, and a tsv file without such names; else rows have lists of words and of tags, which are names, or numbers of
    `label_names`, or texts with the places of entities.

    Raises:
        ValueError: rows that cannot be used, of which a tag that breaks the scheme is one; with file and line.
    """

    def reader(path: Path) -> Iterator[readers.Item] | None:
        if (table := read_table(path, config)) or ending(path) in (*COLUMNAR, *JSON, ".csv"):
            return table
        if ending(path) == ".tsv" and names_columns(path, config):
            return None
        found = read_conll(path, word_column=config.word_column, tag_column=config.tag_column, encoding=config.encoding)
        names = (config.tokens_column, config.tags_column or "tags")
        return ((n, [dict(zip(names, v, strict=True))] if isinstance(v, list) else v) for n, v in found)

    def load(scheme: str) -> dict[str, Dataset]:
        unread.clear()
        read = partial(read_sentence, config=config, scheme=scheme, unread=unread)
        reading: dict[str, Any] = {"read": read, "schema": ROW, "reader": reader, "seed": seed}
        return load_splits(config, columns={"row": ""}, compare=["tokens", "tags"], **reading)

    unread = Unread()
    rows = load("any")
    scheme = find_scheme(rows["train"]["tags"]) if config.label_scheme == "auto" else config.label_scheme
    if any(scheme_fault(tags, scheme) for split in rows.values() for tags in split["tags"]):
        rows = load(scheme)  # says which, and where
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
    else:  # a text in either place has spaces between its parts
        words, tags = (part.split() if isinstance(part, str) else part for part in (words, tags))
    if len(words) != len(tags):
        raise readers.Fault(f"{len(words)} words, but {len(tags)} tags")
    if not words:
        raise readers.Fault("no words")
    for number, word in enumerate(words, 1):
        readers.text(word, f"word {number}")
    tags = [read_tag(tag, number, config.label_names) for number, tag in enumerate(tags, 1)]
    if found := scheme_fault(tags, scheme):
        number, why = found
        raise readers.Fault(f"word {number + 1}, {words[number]!r}: {why} (label_scheme {scheme})")
    return [words, tags]


def columns_of(row: Mapping[str, Any], config: TaggingConfig) -> list[str]:
    """The columns of the words, or of the text, and of the tags, or of the places. Raises: readers.Fault."""
    words = config.tokens_column
    annotated = isinstance(row.get(words), list) and any(isinstance(word, dict) for word in row[words])  # by Prodigy
    if "text" in row and words == "tokens" and (words not in row or annotated):
        words = "text"
    usual = OF_TEXTS if isinstance(row.get(words), str) else OF_WORDS
    tags = config.tags_column or next((name for name in usual if name in row), "tags")
    for column in (words, tags):
        if column not in row:
            raise readers.Fault(readers.missing(column, row))
    return [words, tags]


def names_columns(path: Path, config: Any) -> bool:
    """Whether `column_names` or the first line names the columns of sentences. `config` is a `TaggingConfig` and a
    `DataConfig`."""
    first = next((line for _, line in raw_lines(path, config.encoding)), b"").decode(errors="replace")
    names = set(config.column_names or first.strip().split("\t"))
    words = {config.tokens_column, "text"} if config.tokens_column == "tokens" else {config.tokens_column}
    return bool(words & names) and bool({config.tags_column} & names if config.tags_column else set(OF_TEXTS) & names)


def read_list(row: Mapping[str, Any], column: str) -> list[Any] | str:
    """The list in a column, also one that was written as text; or the text. Raises: readers.Fault."""
    value = unwritten_or_text(row[column])
    if not isinstance(value, list | str):
        kind = "null" if value is None else f"not a list but {type(value).__name__}: {value!r:.60}"
        raise readers.Fault(f"column {column!r} is {kind}")
    return value


def read_tag(tag: Any, number: int, names: Sequence[str]) -> str:
    """The tag of a sentence's word `number`. Raises: readers.Fault."""
    if isinstance(tag, int) and not isinstance(tag, bool):
        if not names:
            raise readers.Fault(f"tag {number} is the number {tag}: say with label_names what the numbers mean")
        if not 0 <= tag < len(names):
            hint = " (do they count from 1?)" if tag == len(names) else ""
            raise readers.Fault(f"tag {number} is {tag}, but label_names has the numbers 0 to {len(names) - 1}{hint}")
        return names[tag]
    tag = readers.text(tag, f"tag {number}")
    if names and tag not in names:
        raise readers.Fault(f"tag {number} is {tag!r}, not among label_names{readers.did_you_mean(tag, names)}")
    return tag


def find_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """How tags spell entities. IOB1 has a B- only between neighbours of one type, IOB2 at each beginning, BIOES marks
    ends and single words too; "none": they do not.

    Raises:
        ValueError: BILOU, which is BIOES in other letters.
    """
    sentences = list(sentences)
    tags = set(chain.from_iterable(sentences)) - {"O"}
    letters = {match[1] if (match := PREFIXED.fullmatch(tag)) else "" for tag in tags}
    if not tags or "" in letters or not letters & {"B", "I", "S", "U"}:
        return "none"
    if letters & {"L", "U"}:
        raise ValueError("the tags are BILOU: rename L- to E- and U- to S-, then they are BIOES")
    if letters & {"E", "S"}:
        return "BIOES"
    faults = {scheme: sum(bool(scheme_fault(tags, scheme)) for tags in sentences) for scheme in ("IOB2", "IOB1")}
    return "IOB1" if faults["IOB1"] < faults["IOB2"] else "IOB2"


def scheme_fault(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """The first word whose tag the scheme does not allow, and why; None if there is none."""
    if scheme in ("none", "any"):
        return None
    before, type_before = "O", ""
    for number, tag in enumerate([*tags, "O"]):
        letter, _, type_ = tag.partition("-")
        if tag != "O" and not (type_ and letter in ("BIES" if scheme == "BIOES" else "BI")):
            return number, f"{tag} is no tag"
        inside = before in ("B", "I") and type_ == type_before
        last = number == len(tags)
        here = "the end" if last else tag
        if scheme == "BIOES" and before in ("B", "I") and not (inside and letter in ("I", "E")):
            return number - 1, f"{tags[number - 1]} before {here}, where its entity should go on with I- or E-"
        if letter in ("I", "E") and not inside and scheme != "IOB1":
            after = f"after {tags[number - 1]}" if number else "at the beginning"
            return number, f"{tag} {after}, where an entity should begin with B-"
        if scheme == "IOB1" and letter == "B" and not inside:
            return number, f"{tag} where no entity of its type stands before, which begins with I-"
        before, type_before = letter, type_
    return None


def label_names(rows: dict[str, Dataset], config: TaggingConfig) -> list[str]:
    """The tags to learn, in the order of their numbers: `label_names`, else those of the training rows, "O" first.

    Raises:
        ValueError: only one; or another split has one that is not among them.
    """
    found = {split: Counter(chain.from_iterable(each["tags"])) for split, each in rows.items()}
    names = config.label_names or sorted(found["train"], key=lambda tag: (tag != "O", tag))
    if len(found["train"]) == 1:
        raise ValueError(f"every training word has the tag {names[0]!r}: there is nothing to learn (tag_column)")
    for split, counts in found.items():
        if new := sorted(counts.keys() - set(names)):
            said = ", ".join(f"{tag!r} ({counts[tag]} words)" for tag in new[:5])
            raise ValueError(
                f"the {split} rows have tags that the training rows lack: {said}"
                + (f" and {len(new) - 5} more" if len(new) > 5 else "")
                + ". Is it the right file, and the right tag_column? If so, name all tags in label_names"
            )
    types: dict[str, Counter[str]] = {split: Counter() for split in found}
    for split, counts in found.items():
        for tag in counts.keys() - {"O"}:
            types[split][match[2] if (match := PREFIXED.fullmatch(tag)) else tag] += counts[tag]
    report_names(types["train"], "tagged words", "the tags", sum(types.values(), Counter()))
    return names
