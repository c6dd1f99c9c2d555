"""Sentences of words with a tag each, and the schemes in which tags spell entities."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.data import readers
from hftrain.data.conll import read_conll
from hftrain.splits import load_splits
from hftrain.tagging.settings import TaggingConfig

if TYPE_CHECKING:
    from datasets import Dataset

ROW = pa.schema([("tokens", pa.list_(pa.string())), ("tags", pa.list_(pa.string()))])
NOT_CONLL = {".json", ".jsonl", ".parquet", ".arrow"}
PREFIXED = re.compile(r"([BIOESLU])-.+", re.DOTALL)


def load_sentences(config: Any, seed: int) -> tuple[dict[str, Dataset], str]:
    """Rows {"tokens", "tags"} of each split, and the scheme of the tags: IOB1, IOB2, BIOES, "any" or "none".

    CoNLL columns are any text file that is not JSON; else rows have lists of words and of tags, which are names, or
    numbers of `label_names`.

    Raises:
        ValueError: rows that cannot be used, of which a tag that breaks the scheme is one; with file and line.
    """

    def conll(path: Path) -> Iterator[readers.Item] | None:
        if NOT_CONLL.intersection(path.suffixes[-2:]):
            return None
        found = read_conll(path, word_column=config.word_column, tag_column=config.tag_column)
        names = (config.tokens_column, config.tags_column or "tags")
        return ((n, [dict(zip(names, v, strict=True))] if isinstance(v, list) else v) for n, v in found)

    def load(scheme: str) -> dict[str, Dataset]:
        read = partial(read_sentence, config=config, scheme=scheme)
        reading: dict[str, Any] = {"read": read, "schema": ROW, "reader": conll, "seed": seed}
        return load_splits(config, columns={"row": ""}, compare=["tokens", "tags"], **reading)

    rows = load("any")
    scheme = find_scheme(rows["train"]["tags"]) if config.label_scheme == "auto" else config.label_scheme
    if any(scheme_fault(tags, scheme) for split in rows.values() for tags in split["tags"]):
        rows = load(scheme)  # says which, and where
    return rows, scheme


def read_sentence(values: list[Any], names: list[str], *, config: TaggingConfig, scheme: str) -> list[list[str]]:
    """[words, tags] of a row. Raises: readers.Fault."""
    (row,) = values
    tags_column = config.tags_column or next((n for n in ("tags", "ner_tags", "labels") if n in row), "tags")
    for column in (config.tokens_column, tags_column):
        if column not in row:
            raise readers.Fault(readers.missing(column, row))
        if not isinstance(row[column], list):
            kind = (
                "null" if row[column] is None else f"not a list but {type(row[column]).__name__}: {row[column]!r:.60}"
            )
            raise readers.Fault(f"column {column!r} is {kind}")
    words, tags = row[config.tokens_column], row[tags_column]
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
    return names
