"""How well scores rank: ROC and precision-recall curves and the areas under them.

Their exact values need every example's score, so the states keep all scores: one number per example for two classes,
otherwise one for each class or label, in their original type. Shapes: N examples, K classes or labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from hftrain.metrics.checks import Values, class_ids, numbers, same_length, some
from hftrain.metrics.counts import indicators

Average = Literal["macro", "micro", "weighted"]


class Column(NamedTuple):
    """One class against the rest: whether an example belongs to it (N,) bool, and its score (N,)."""

    name: str
    positive: np.ndarray
    scores: np.ndarray


@dataclass
class Scores:
    """Scores with their references.

    Args:
        labels: names of the K columns, for messages.
    """

    labels: Sequence[str] = ()
    scores: list[np.ndarray] = field(default_factory=list)
    references: list[np.ndarray] = field(default_factory=list)

    def add(self, predictions: Values, references: Values, scores: Values) -> None:
        """Scores (N,) of the second of two classes, or (N, K); references: classes (N,), or labels (N, K) of 0 and 1.

        Raises:
            ValueError: scores are missing or not finite, or their shape does not fit the references.
        """
        if scores is None:
            raise ValueError("a ranking metric needs scores: a probability for each example and class")
        same_length(scores=scores, references=references)
        if not len(references):
            return
        scores, references = numbers("scores", scores), np.asarray(references)
        if scores.ndim == 2 and references.ndim == 2:
            references = indicators("references", references)
        else:
            references = class_ids("references", references)
        classes = scores.shape[1] if scores.ndim == 2 else 2
        if (references.ndim == 2 and references.shape != scores.shape) or references.ndim > scores.ndim:
            raise ValueError(f"scores {scores.shape} do not fit references {references.shape}")
        if references.ndim == 1 and ((references < 0) | (references >= classes)).any():
            wrong = references[(references < 0) | (references >= classes)][0]
            raise ValueError(f"a reference is class {wrong}, but the scores have the classes 0 to {classes - 1}")
        if references.ndim == 1 and scores.ndim == 2 and classes == 2:
            scores = scores[:, 1]  # the other column is its complement
        self.scores.append(scores)
        self.references.append(references)

    def merge(self, other: Scores) -> None:
        self.scores += other.scores
        self.references += other.references

    def columns(self) -> list[Column]:
        """Each class against the rest; for two classes only the second."""
        some(len(self.scores))
        scores, references = np.concatenate(self.scores), np.concatenate(self.references)
        if scores.ndim == 1:
            return [Column(self.labels[1] if self.labels else "1", references == 1, scores)]
        names = self.labels or [str(column) for column in range(scores.shape[1])]
        truth = references.T if references.ndim == 2 else [references == number for number in range(scores.shape[1])]
        return [Column(*fields) for fields in zip(names, truth, scores.T, strict=True)]


def roc_auc(scores: Scores, average: Average | None = "macro") -> Any:
    """Probability that a positive is ranked above a negative, ties half (Fawcett, 2006); one class against the rest.

    Args:
        average: over the classes; weighted by their references; micro: over all decisions together; None: (K,).

    Raises:
        ValueError: a class is never or always the reference.
    """
    return _averaged(scores, average, area_under_roc)


def average_precision(scores: Scores, average: Average | None = "macro") -> Any:
    """Sum over thresholds of (recall_n - recall_n-1) precision_n. `average` and Raises are those of `roc_auc`."""
    return _averaged(scores, average, area_under_pr)


def top_3_accuracy(scores: Scores) -> float:
    """Share of the examples whose class is among the 3 of highest score; of equal scores later classes come first, as
    scikit-learn has it."""
    return _top(scores, 3)


def top_5_accuracy(scores: Scores) -> float:
    """As `top_3_accuracy`, among 5."""
    return _top(scores, 5)


def _top(scores: Scores, count: int) -> float:
    some(len(scores.scores))
    rows, references = np.concatenate(scores.scores), np.concatenate(scores.references)
    if rows.ndim == 1:
        return 1.0  # of two classes
    best = np.argsort(rows, axis=1, kind="stable")[:, ::-1][:, :count]
    return float((best == references[:, None]).any(axis=1).mean())


def area_under_roc(column: Column) -> float:
    """`roc_auc` of one class."""
    negatives, positives, _ = _cumulative(column)
    # Twice the area in whole numbers, as floats: exact up to 2^53.
    twice = np.sum(np.diff(negatives).astype(np.float64) * (positives[1:] + positives[:-1]))
    return float(twice / (2.0 * negatives[-1] * positives[-1]))


def area_under_pr(column: Column) -> float:
    """`average_precision` of one class."""
    curve = pr_curve(column)
    return float(np.sum(-np.diff(curve["recall"]) * curve["precision"][:-1]))


def together(columns: Sequence[Column]) -> Column:
    """All decisions as one class (micro)."""
    _, positive, scores = zip(*columns, strict=True)
    return Column("all together", np.concatenate(positive), np.concatenate(scores))


def roc_curve(column: Column) -> dict[str, np.ndarray]:
    """{"fpr", "tpr", "thresholds"}, ascending rates: a point (0, 0) and one for each distinct score."""
    negatives, positives, thresholds = _cumulative(column)
    return {"fpr": negatives / negatives[-1], "tpr": positives / positives[-1], "thresholds": thresholds}


def pr_curve(column: Column) -> dict[str, np.ndarray]:
    """{"precision", "recall", "thresholds"} by ascending threshold; a last point (1, 0) has no threshold."""
    negatives, positives, thresholds = _cumulative(column)
    precision = np.append(1.0, positives[1:] / (negatives + positives)[1:])
    recall = positives / positives[-1]
    return {"precision": precision[::-1], "recall": recall[::-1], "thresholds": thresholds[:0:-1]}


def _cumulative(column: Column) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Negatives and positives with at least the score of each threshold; thresholds descend from infinity."""
    name, positive, scores = column
    if positive.all() or not positive.any():
        how_many = "every one" if positive.all() else "none"
        raise ValueError(
            f"a ranking is not defined: {how_many} of {len(positive)} references is {name!r}. Evaluate on rows of all "
            "classes, or remove ROC-AUC and average precision from the metrics"
        )
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    positives = np.cumsum(positive)[last_of_ties]
    negatives = last_of_ties + 1 - positives
    return np.append(0, negatives), np.append(0, positives), np.append(np.inf, scores[last_of_ties])


def _averaged(scores: Scores, average: Average | None, area: Callable[[Column], float]) -> Any:
    columns = scores.columns()
    if average == "micro":
        columns = [together(columns)]
    values = np.array([area(column) for column in columns])
    if average is None:
        return values
    if average in ("macro", "micro"):
        return float(values.mean())
    if average == "weighted":
        weights = np.array([column.positive.sum() for column in columns])
        return float(values @ weights / weights.sum())
    raise ValueError(f"average={average!r} is not one of macro, micro, weighted and None (each class)")
