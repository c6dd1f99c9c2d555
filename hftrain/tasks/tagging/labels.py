"""Tags as labels: the schemes in which they mark entities, and the list of tags."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from hftrain.data.names import report_names
from hftrain.tasks.tagging.config import TaggingConfig

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

PREFIXED = re.compile(r"([BIOESLU])-(.+)", re.DOTALL)


def find_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme in which tags mark entities. IOB1 has a B- only between neighbours of one type, IOB2 at each
    beginning, BIOES marks ends and single words too; "none": the tags are not entities.

    Raises:
        ValueError: the tags are BILOU, which is BIOES with other letters.
    """
    sentences = list(sentences)
    tags = set(chain.from_iterable(sentences)) - {"O"}
    letters = {match[1] if (match := PREFIXED.fullmatch(tag)) else "" for tag in tags}
    if not tags or "" in letters or not letters & {"B", "I", "S", "U"}:
        return "none"
    if letters & {"L", "U"}:
        raise ValueError("the tags are BILOU: rename L- to E- and U- to S- to get BIOES")
    if letters & {"E", "S"}:
        return "BIOES"
    faults = {scheme: sum(bool(scheme_fault(tags, scheme)) for tags in sentences) for scheme in ("IOB2", "IOB1")}
    return "IOB1" if faults["IOB1"] < faults["IOB2"] else "IOB2"


def scheme_fault(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """The first word whose tag the scheme does not allow, and why; None if all are allowed."""
    if scheme in ("none", "any"):
        return None
    before, type_before = "O", ""
    for number, tag in enumerate([*tags, "O"]):
        letter, _, type_ = tag.partition("-")
        if tag != "O" and not (type_ and letter in ("BIES" if scheme == "BIOES" else "BI")):
            return number, f"{tag} is not a tag of the scheme"
        inside = before in ("B", "I") and type_ == type_before
        last = number == len(tags)
        here = "the end" if last else tag
        if scheme == "BIOES" and before in ("B", "I") and not (inside and letter in ("I", "E")):
            return number - 1, f"{tags[number - 1]} before {here}, where the entity should continue with I- or E-"
        if letter in ("I", "E") and not inside and scheme != "IOB1":
            after = f"after {tags[number - 1]}" if number else "at the beginning"
            return number, f"{tag} {after}, where an entity should begin with B-"
        if scheme == "IOB1" and letter == "B" and not inside:
            return number, f"{tag} where no entity of its type ends before; begin with I-"
        before, type_before = letter, type_
    return None


def label_names(rows: dict[str, Rows], config: TaggingConfig) -> list[str]:
    """The tags to learn, in the order of their numbers: `label_names`, else those of the training rows, "O" first.

    Raises:
        ValueError: there is only one tag, or another split has a tag that is not in the list.
    """
    counts_of_split = {split: Counter(chain.from_iterable(part["tags"])) for split, part in rows.items()}
    names = config.label_names or sorted(counts_of_split["train"], key=lambda tag: (tag != "O", tag))
    if len(counts_of_split["train"]) == 1:
        raise ValueError(f"every training word has the tag {names[0]!r}: there is nothing to learn (tag_column)")
    for split, counts in counts_of_split.items():
        if new := sorted(counts.keys() - set(names)):
            shown = ", ".join(f"{tag!r} ({counts[tag]} words)" for tag in new[:5])
            raise ValueError(
                f"the {split} rows have tags that the training rows lack: {shown}"
                + (f" and {len(new) - 5} more" if len(new) > 5 else "")
                + ". Check the file and tag_column; if both are correct, list all tags in label_names"
            )
    types: dict[str, Counter[str]] = {split: Counter() for split in counts_of_split}
    for split, counts in counts_of_split.items():
        for tag in counts.keys() - {"O"}:
            types[split][match[2] if (match := PREFIXED.fullmatch(tag)) else tag] += counts[tag]
    report_names(types["train"], "tagged words", "the tags", sum(types.values(), Counter()))
    return names
