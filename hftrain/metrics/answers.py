"""Extractive question answering, scored like the scripts of SQuAD 1.1 and 2.0 (Rajpurkar et al., 2016, 2018)."""

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
    """Five numbers for each question, in order: the best threshold needs them.

    Args:
        score: `score_v1` or `score_v2`.
    """

    score: Callable[[str, Sequence[str]], tuple[float, float]]
    answers: list[Answer] = field(default_factory=list)

    def add(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], scores: Values | None = None
    ) -> None:
        """Answers ("" for no answer) with the reference answers of each question (empty: it has no answer).

        Args:
            scores: the probability that there is no answer; None: 0.
        """
        unsure = numbers("scores", [0.0] * len(predictions) if scores is None else scores).tolist()
        same_length(predictions=predictions, references=references, scores=unsure)
        for text, accepted, probability in zip(predictions, references, unsure, strict=True):
            self.answers.append(Answer(*self.score(text, accepted), bool(accepted), bool(text), probability))

    def merge(self, other: Answers) -> None:
        self.answers += other.answers


def paired(predictions: Sequence[dict[str, Any]], references: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The predictions in the order of the references, by their "id".

    Raises:
        ValueError: a question has two predictions or none, or a prediction has no question.
    """
    by_id = {item["id"]: item for item in predictions}
    ids = [item["id"] for item in references]
    if len(by_id) < len(predictions) or len(set(ids)) < len(ids):
        raise ValueError(
            f"an id occurs twice: {len(predictions)} predictions have {len(by_id)} ids, "
            f"{len(ids)} references {len(set(ids))}"
        )
    if unmatched := by_id.keys() ^ set(ids):
        raise ValueError(f"{len(unmatched)} ids have only a prediction or only a reference, such as {min(unmatched)!r}")
    return [by_id[item] for item in ids]


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, English articles and extra spaces."""
    words = re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION), flags=re.UNICODE)
    return " ".join(words.split())


def score_v1(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Exact match and token F1 with the best matching reference. Raises ValueError without references."""
    if not references:
        raise ValueError("a question has no answer: score this data set with squad_v2")
    predicted, texts = normalize_answer(prediction), [normalize_answer(text) for text in references]
    return float(predicted in texts), max(_overlap(predicted.split(), reference.split()) for reference in texts)


def score_v2(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """As `score_v1`; for a question without references, an empty prediction is correct."""
    predicted = normalize_answer(prediction)
    texts = [normal for text in references if (normal := normalize_answer(text))] or [""]
    exact = float(predicted in texts)
    return exact, max(
        _overlap(predicted.split(), reference.split()) if predicted and reference else exact for reference in texts
    )


def squad(state: Answers) -> dict[str, float]:
    """{"exact_match", "f1"} in percent."""
    return _percent(state.answers, "exact_match")


def squad_v2(state: Answers, no_answer_threshold: float = 1.0) -> dict[str, float]:
    """{"exact", "f1", "total"} in percent, the same for questions with ("HasAns_") and without an answer ("NoAns_"),
    and "best_exact", "best_f1" with the thresholds "_thresh" that reach them.

    Args:
        no_answer_threshold: above this probability of no answer, the question counts as unanswered.
    """
    answers = [
        answer._replace(exact=float(not answer.has_answer), f1=float(not answer.has_answer))
        if answer.no_answer_probability > no_answer_threshold
        else answer
        for answer in state.answers
    ]
    results = _percent(answers, "exact") | {"total": len(answers)}
    for prefix, has_answer in (("HasAns_", True), ("NoAns_", False)):
        if part := [answer for answer in answers if answer.has_answer == has_answer]:
            results |= {f"{prefix}{name}": value for name, value in _percent(part, "exact").items()}
            results[f"{prefix}total"] = len(part)
    results["best_exact"], results["best_exact_thresh"] = _best(state.answers, lambda answer: answer.exact)
    results["best_f1"], results["best_f1_thresh"] = _best(state.answers, lambda answer: answer.f1)
    return results


def _overlap(predicted: list[str], reference: list[str]) -> float:
    """F1 of two bags of words."""
    common = (Counter(predicted) & Counter(reference)).total()
    return 2 * common / (len(predicted) + len(reference)) if common else 0.0


def _percent(answers: Sequence[Answer], exact: str) -> dict[str, float]:
    some(len(answers))
    return {
        exact: 100 * sum(answer.exact for answer in answers) / len(answers),
        "f1": 100 * sum(answer.f1 for answer in answers) / len(answers),
    }


def _best(answers: Sequence[Answer], score: Callable[[Answer], float]) -> tuple[float, float]:
    """The highest score that a threshold on the probability reaches, and the first such threshold."""
    current = best = float(sum(not answer.has_answer for answer in answers))
    threshold = 0.0
    for answer in sorted(answers, key=lambda answer: answer.no_answer_probability):
        current += score(answer) if answer.has_answer else -float(answer.answered)
        if current > best:
            best, threshold = current, answer.no_answer_probability
    return 100 * best / len(answers), threshold
