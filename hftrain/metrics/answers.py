"""Extractive question answering, as the scripts of SQuAD 1.1 and 2.0 score it (Rajpurkar et al., 2016, 2018)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hftrain.metrics.checks import Values, numbers, same_length, some

PUNCTUATION = str.maketrans("", "", string.punctuation)


class Answer(NamedTuple):
    """Scores of one question."""

    exact: float
    f1: float
    has_answer: bool
    answered: bool
    no_answer_probability: float


@dataclass
class Answers:
    """Five numbers for each question, in the order they come: the best threshold needs them.

    Args:
        score: `score_v1` or `score_v2`.
    """

    score: Callable[[str, Sequence[str]], tuple[float, float]]
    answers: list[Answer] = field(default_factory=list)

    def add(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], scores: Values | None = None
    ) -> None:
        """Answers ("" for none) with each question's right answers (none: it has no answer).

        Args:
            scores: the probability that there is no answer; None: 0.
        """
        unsure = numbers("scores", [0.0] * len(predictions) if scores is None else scores).tolist()
        same_length(predictions=predictions, references=references, scores=unsure)
        for text, right, probability in zip(predictions, references, unsure, strict=True):
            self.answers.append(Answer(*self.score(text, right), bool(right), bool(text), probability))

    def merge(self, other: Answers) -> None:
        self.answers += other.answers


def paired(predictions: Sequence[dict[str, Any]], references: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The predictions in the order of the references, by their "id".

    Raises:
        ValueError: a question is answered twice or not at all, or is not asked.
    """
    by_id = {each["id"]: each for each in predictions}
    asked = [each["id"] for each in references]
    if len(by_id) < len(predictions) or len(set(asked)) < len(asked):
        raise ValueError(
            f"an id comes twice: {len(predictions)} predictions have {len(by_id)} ids, "
            f"{len(asked)} references {len(set(asked))}"
        )
    if others := by_id.keys() ^ set(asked):
        raise ValueError(f"{len(others)} ids have a prediction or a reference only, as {min(others)!r}")
    return [by_id[each] for each in asked]


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, English articles and superfluous space."""
    words = re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION), flags=re.UNICODE)
    return " ".join(words.split())


def score_v1(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Exact match and token F1 with the reference that fits best; no reference: a ValueError."""
    if not references:
        raise ValueError("a question has no answer: score this data set with squad_v2")
    predicted, right = normalize_answer(prediction), [normalize_answer(text) for text in references]
    return float(predicted in right), max(_overlap(predicted.split(), each.split()) for each in right)


def score_v2(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """As `score_v1`; a question without references wants an empty prediction."""
    predicted = normalize_answer(prediction)
    right = [normal for text in references if (normal := normalize_answer(text))] or [""]
    exact = float(predicted in right)
    return exact, max(_overlap(predicted.split(), each.split()) if predicted and each else exact for each in right)


def squad(state: Answers) -> dict[str, float]:
    """{"exact_match", "f1"} in percent."""
    return _percent(state.answers, "exact_match")


def squad_v2(state: Answers, no_answer_threshold: float = 1.0) -> dict[str, float]:
    """{"exact", "f1", "total"} in percent, the same of the questions with ("HasAns_") and without an answer ("NoAns_"),
    and "best_exact", "best_f1" with the thresholds "_thresh" that would give them.

    Args:
        no_answer_threshold: an answer that is missing with a higher probability counts as not given.
    """
    kept = [
        each._replace(exact=float(not each.has_answer), f1=float(not each.has_answer))
        if each.no_answer_probability > no_answer_threshold
        else each
        for each in state.answers
    ]
    results = _percent(kept, "exact") | {"total": len(kept)}
    for prefix, has_answer in (("HasAns_", True), ("NoAns_", False)):
        if part := [each for each in kept if each.has_answer == has_answer]:
            results |= {f"{prefix}{name}": value for name, value in _percent(part, "exact").items()}
            results[f"{prefix}total"] = len(part)
    results["best_exact"], results["best_exact_thresh"] = _best(state.answers, lambda each: each.exact)
    results["best_f1"], results["best_f1_thresh"] = _best(state.answers, lambda each: each.f1)
    return results


def _overlap(predicted: list[str], right: list[str]) -> float:
    """F1 of two bags of words."""
    common = (Counter(predicted) & Counter(right)).total()
    return 2 * common / (len(predicted) + len(right)) if common else 0.0


def _percent(answers: Sequence[Answer], exact: str) -> dict[str, float]:
    some(len(answers))
    return {
        exact: 100 * sum(each.exact for each in answers) / len(answers),
        "f1": 100 * sum(each.f1 for each in answers) / len(answers),
    }


def _best(answers: Sequence[Answer], score: Callable[[Answer], float]) -> tuple[float, float]:
    """The highest score that a threshold on the probability gives, and the threshold; of equal ones, in their order."""
    current = best = float(sum(not each.has_answer for each in answers))
    threshold = 0.0
    for each in sorted(answers, key=lambda each: each.no_answer_probability):
        current += score(each) if each.has_answer else -float(each.answered)
        if current > best:
            best, threshold = current, each.no_answer_probability
    return 100 * best / len(answers), threshold
