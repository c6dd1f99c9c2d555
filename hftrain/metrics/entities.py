"""Named entities: precision, recall and F1 of whole spans, as conlleval and seqeval count them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hftrain.metrics.checks import Values, same_length, some

TAG = re.compile(r"O|[BIES](?:-(.*))?", re.DOTALL)
SCHEMES = {"IOB2": "BIO", "IOBES": "BIOES", "BIOES": "BIOES"}

Entity = tuple[str, int, int]  # type, first token, last token


@dataclass
class Entities:
    """For each type how many entities are right, predicted, in the references; and how many tokens' tags are right.

    Args:
        scheme: None: lenient as conlleval, an I-X that follows no X begins one. IOB2, IOBES (BIOES): strict, only what
            the scheme calls an entity is one; a tag that it does not have is a ValueError.
    """

    scheme: str | None = None
    right: Counter[str] = field(default_factory=Counter)
    predicted: Counter[str] = field(default_factory=Counter)
    references: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    tokens_right: int = 0

    def __post_init__(self) -> None:
        if self.scheme not in (None, *SCHEMES):
            raise ValueError(f"scheme={self.scheme!r} is not one of IOB2, IOBES (BIOES) and None (lenient)")

    def add(
        self, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], scores: Values | None = None
    ) -> None:
        """Tags of each sentence's tokens ("B-LOC", "I-LOC", "O")."""
        same_length(predictions=predictions, references=references)
        for number, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
            if len(prediction) != len(reference):
                raise ValueError(
                    f"sentence {number} has {len(prediction)} predicted tags but {len(reference)} references"
                )
            found, wanted = set(entities(prediction, self.scheme)), set(entities(reference, self.scheme))
            self.right.update(type_ for type_, _, _ in found & wanted)
            self.predicted.update(type_ for type_, _, _ in found)
            self.references.update(type_ for type_, _, _ in wanted)
            self.tokens += len(reference)
            self.tokens_right += sum(one == other for one, other in zip(prediction, reference, strict=True))

    def merge(self, other: Entities) -> None:
        self.right.update(other.right)
        self.predicted.update(other.predicted)
        self.references.update(other.references)
        self.tokens += other.tokens
        self.tokens_right += other.tokens_right


def entities(tags: Iterable[str], scheme: str | None = None) -> list[Entity]:
    """Entities of one sentence, in order. `scheme` as in `Entities`.

    Raises:
        ValueError: a tag is none of the scheme.
    """
    letters = SCHEMES.get(scheme or "", "BIOES")
    found: list[Entity] = []
    begin, before, type_before = -1, "O", ""
    for at, tag in enumerate([*tags, "O"]):
        match = TAG.fullmatch(tag)
        if not match or tag[0] not in letters:
            known = ", ".join("O" if letter == "O" else f"{letter}-X" for letter in letters)
            raise ValueError(f"tag {tag!r} of token {at} is not one of {scheme or 'IOB2 and BIOES'}: {known}")
        letter, type_ = tag[0], match[1] or "_"
        goes_on = before in ("B", "I") and letter in ("I", "E") and type_ == type_before and begin >= 0
        if begin >= 0 and not goes_on:
            if scheme in (None, "IOB2") or before in ("E", "S"):  # in BIOES, what has no end is no entity
                found.append((type_before, begin, at - 1))
            begin = -1
        if not goes_on and (letter in ("B", "S") or (letter in ("I", "E") and scheme is None)):
            begin = at
        before, type_before = letter, type_
    return found


def seqeval(state: Entities) -> dict[str, Any]:
    """{type: {"precision", "recall", "f1", "number"}, "overall_precision", "overall_recall", "overall_f1",
    "overall_accuracy"}: overall is of all entities, the accuracy of the tokens' tags. A ratio of nothing is 0.
    """
    some(state.tokens)
    scores: dict[str, Any] = {}
    for type_ in sorted(state.predicted.keys() | state.references.keys()):
        scores[type_] = _scores(state.right[type_], state.predicted[type_], state.references[type_])
        scores[type_]["number"] = state.references[type_]
    overall = _scores(state.right.total(), state.predicted.total(), state.references.total())
    scores |= {f"overall_{name}": value for name, value in overall.items()}
    return scores | {"overall_accuracy": state.tokens_right / state.tokens}


def overall(state: Entities) -> dict[str, float]:
    """The part of `seqeval` that is of all types together."""
    return {name: value for name, value in seqeval(state).items() if name.startswith("overall_")}


def _scores(right: int, predicted: int, references: int) -> dict[str, float]:
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / references if references else 0.0,
        "f1": 2 * right / (predicted + references) if right else 0.0,
    }
