"""Named entities: precision, recall and F1 of whole spans, counted like conlleval and seqeval."""

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
    """Counts of each type's correct, predicted and reference entities; and of tokens with the correct tag.

    Args:
        scheme: None: lenient like conlleval: an I-X that does not follow an X begins an entity. IOB2, IOBES (BIOES):
            strict: only entities of the scheme count, and another tag raises ValueError.
    """

    scheme: str | None = None
    correct: Counter[str] = field(default_factory=Counter)
    predicted: Counter[str] = field(default_factory=Counter)
    references: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    tokens_correct: int = 0

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
            predicted, expected = set(entities(prediction, self.scheme)), set(entities(reference, self.scheme))
            self.correct.update(type_ for type_, _, _ in predicted & expected)
            self.predicted.update(type_ for type_, _, _ in predicted)
            self.references.update(type_ for type_, _, _ in expected)
            self.tokens += len(reference)
            self.tokens_correct += sum(one == other for one, other in zip(prediction, reference, strict=True))

    def merge(self, other: Entities) -> None:
        self.correct.update(other.correct)
        self.predicted.update(other.predicted)
        self.references.update(other.references)
        self.tokens += other.tokens
        self.tokens_correct += other.tokens_correct


def entities(tags: Iterable[str], scheme: str | None = None) -> list[Entity]:
    """Entities of one sentence, in order. `scheme` as in `Entities`.

    Raises:
        ValueError: a tag does not belong to the scheme.
    """
    letters = SCHEMES.get(scheme or "", "BIOES")
    spans: list[Entity] = []
    begin, before, type_before = -1, "O", ""
    for at, tag in enumerate([*tags, "O"]):
        match = TAG.fullmatch(tag)
        if not match or tag[0] not in letters:
            tags_known = ", ".join("O" if letter == "O" else f"{letter}-X" for letter in letters)
            raise ValueError(f"tag {tag!r} of token {at} is not one of {scheme or 'IOB2 and BIOES'}: {tags_known}")
        letter, type_ = tag[0], match[1] or "_"
        goes_on = before in ("B", "I") and letter in ("I", "E") and type_ == type_before and begin >= 0
        if begin >= 0 and not goes_on:
            if scheme in (None, "IOB2") or before in ("E", "S"):  # in BIOES, an entity needs its end
                spans.append((type_before, begin, at - 1))
            begin = -1
        if not goes_on and (letter in ("B", "S") or (letter in ("I", "E") and scheme is None)):
            begin = at
        before, type_before = letter, type_
    return spans


def seqeval(state: Entities) -> dict[str, Any]:
    """{type: {"precision", "recall", "f1", "number"}, "overall_precision", "overall_recall", "overall_f1",
    "overall_accuracy"}: overall scores count all entities, the accuracy counts tags. A ratio of 0 / 0 is 0.
    """
    some(state.tokens)
    scores: dict[str, Any] = {}
    for type_ in sorted(state.predicted.keys() | state.references.keys()):
        scores[type_] = _scores(state.correct[type_], state.predicted[type_], state.references[type_])
        scores[type_]["number"] = state.references[type_]
    overall = _scores(state.correct.total(), state.predicted.total(), state.references.total())
    scores |= {f"overall_{name}": value for name, value in overall.items()}
    return scores | {"overall_accuracy": state.tokens_correct / state.tokens}


def overall(state: Entities) -> dict[str, float]:
    """The overall scores of `seqeval`."""
    return {name: value for name, value in seqeval(state).items() if name.startswith("overall_")}


def _scores(correct: int, predicted: int, references: int) -> dict[str, float]:
    return {
        "precision": correct / predicted if predicted else 0.0,
        "recall": correct / references if references else 0.0,
        "f1": 2 * correct / (predicted + references) if correct else 0.0,
    }
