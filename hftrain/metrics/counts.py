"""Classification by counts: how often each pair of prediction and reference occurs, and the scores from that.

The states are sums: `merge` adds them, in any order, with an exact result. Shapes: N examples, K classes, L labels of
which an example may have several.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from hftrain.metrics.checks import Values, class_ids, same_length, some

Average = Literal["binary", "macro", "micro", "weighted"]


class PerClass(NamedTuple):
    """For each of K classes, (K,) each: how often it was correct, predicted, and the reference."""

    correct: np.ndarray
    predicted: np.ndarray
    references: np.ndarray


@dataclass
class Counts:
    """One class for each example: pairs[reference, prediction] counts them. Classes are numbers or names."""

    pairs: Counter[tuple[Hashable, Hashable]] = field(default_factory=Counter)

    def add(self, predictions: Values, references: Values, scores: Values | None = None) -> None:
        """Classes, (N,) each."""
        same_length(predictions=predictions, references=references)
        self.pairs.update(zip(_classes("references", references), _classes("predictions", predictions), strict=True))

    def merge(self, other: Counts) -> None:
        self.pairs.update(other.pairs)

    def classes(self) -> list[Any]:
        """The classes that occurred, in order."""
        return sorted({label for pair in self.pairs for label in pair})  # type: ignore[type-var]

    def correct(self) -> int:
        return sum(count for (reference, prediction), count in self.pairs.items() if reference == prediction)

    def matrix(self, classes: Sequence[Any] | None = None) -> np.ndarray:
        """(K, K) int64: row i, column j is how often class i was predicted to be class j. None: `self.classes()`."""
        place = {label: at for at, label in enumerate(self.classes() if classes is None else classes)}
        matrix = np.zeros((len(place), len(place)), np.int64)
        for (reference, prediction), count in self.pairs.items():
            if reference in place and prediction in place:
                matrix[place[reference], place[prediction]] = count
        return matrix

    def per_class(self, classes: Sequence[Any] | None = None) -> PerClass:
        """The counts of the given classes, in their order; None: of the classes that occurred."""
        correct, predicted, references = Counter[Any](), Counter[Any](), Counter[Any]()
        for (reference, prediction), count in self.pairs.items():
            predicted[prediction] += count
            references[reference] += count
            correct[reference] += count * (reference == prediction)
        chosen = self.classes() if classes is None else classes
        return PerClass(
            *(np.array([counter[label] for label in chosen], np.int64) for counter in (correct, predicted, references))
        )


@dataclass
class LabelCounts:
    """Any number of L labels for each example."""

    sums: np.ndarray = field(default_factory=lambda: np.zeros((3, 0), np.int64))  # rows as in PerClass
    examples: int = 0
    all_correct: int = 0

    def add(self, predictions: Values, references: Values, scores: Values | None = None) -> None:
        """0 or 1, (N, L) each."""
        same_length(predictions=predictions, references=references)
        if not len(references):
            return
        predicted, wanted = indicators("predictions", predictions), indicators("references", references)
        if predicted.shape != wanted.shape:
            raise ValueError(f"predictions {predicted.shape} and references {wanted.shape} have different shapes")
        sums = np.stack([(predicted & wanted).sum(0), predicted.sum(0), wanted.sum(0)])
        self.merge(LabelCounts(sums, len(wanted), int((predicted == wanted).all(axis=1).sum())))

    def merge(self, other: LabelCounts) -> None:
        if other.examples:
            self.sums = self.sums + other.sums if self.examples else other.sums
            self.examples += other.examples
            self.all_correct += other.all_correct

    def correct(self) -> int:
        """The number of examples with all labels correct (subset accuracy)."""
        return self.all_correct

    def per_class(self, classes: Sequence[int] | None = None) -> PerClass:
        sums = self.sums if classes is None else self.sums[:, list(classes)]
        return PerClass(*sums)


def accuracy(counts: Counts | LabelCounts) -> float:
    """Share of correct examples; with several labels, all of them must be correct."""
    examples = counts.examples if isinstance(counts, LabelCounts) else counts.pairs.total()
    some(examples)
    return counts.correct() / examples


def precision(counts: Counts | LabelCounts, average: Average | None = "binary", **options: Any) -> Any:
    """correct / predicted; 0 if nothing was predicted. Arguments as for `f1`."""
    return _averaged(counts, average, lambda of_class: _ratio(of_class.correct, of_class.predicted), **options)


def recall(counts: Counts | LabelCounts, average: Average | None = "binary", **options: Any) -> Any:
    """correct / references; 0 without references. Arguments as for `f1`."""
    return _averaged(counts, average, lambda of_class: _ratio(of_class.correct, of_class.references), **options)


def f1(counts: Counts | LabelCounts, average: Average | None = "binary", **options: Any) -> Any:
    """2 correct / (predicted + references), the harmonic mean of precision and recall; 0 if both are undefined.

    Args:
        average: binary: only of `pos_label`. macro: mean over the classes. weighted: the same, weighted by their
            references. micro: from the sums over all classes. None: an array, (K,).
        labels: the classes that count, in the order of the result; None: all that occurred.
        pos_label: for binary.
    """
    return _averaged(
        counts,
        average,
        lambda of_class: _ratio(2 * of_class.correct, of_class.predicted + of_class.references),
        **options,
    )


def matthews(counts: Counts) -> float:
    """Correlation of prediction and reference for K classes (Gorodkin, 2004, eq. 8): -1 to 1; 0 if one is constant."""
    some(counts.pairs.total())
    correct, predicted, references = counts.per_class()
    n = int(references.sum())
    # Python's integers: n^4 exceeds 64 bits from 56,000 examples on.
    covariance = n * int(correct.sum()) - _dot(predicted, references)
    spread = (n * n - _dot(predicted, predicted)) * (n * n - _dot(references, references))
    return covariance / math.sqrt(spread) if spread else 0.0


def confusion_matrix(counts: Counts, labels: Sequence[Any] | None = None) -> np.ndarray:
    """(K, K): how often class i (row) was predicted to be class j (column); `labels` as in `Counts.matrix`."""
    return counts.matrix(labels)


def indicators(name: str, values: Values) -> np.ndarray:
    """(N, L) booleans from 0 and 1.

    Raises:
        ValueError: the shape is different, or a number is not 0 or 1.
    """
    array = class_ids(name, values)
    if array.ndim != 2:
        raise ValueError(
            f"{name} with several labels must be (examples, labels) of 0 and 1, but their shape is {array.shape}"
        )
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} with several labels must be 0 or 1, but one is {array[(array < 0) | (array > 1)][0]}")
    return array.astype(bool)


def _classes(name: str, values: Values) -> Iterable[Hashable]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one class for each example, but their shape is {array.shape}")
    return array.tolist() if array.dtype.kind in "US" else class_ids(name, array).tolist()


def _ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.divide(part, total, out=np.zeros(np.shape(part)), where=np.asarray(total) != 0)


def _averaged(
    counts: Counts | LabelCounts,
    average: Average | None,
    measure: Any,
    labels: Sequence[Any] | None = None,
    pos_label: Any = 1,
) -> Any:
    per_class = counts.per_class(labels)
    some(per_class.references.size)
    if average == "binary":
        if isinstance(counts, LabelCounts) or len(counts.classes()) > 2:
            raise ValueError("average binary needs two classes: choose macro, micro, weighted or None (each class)")
        if (classes := counts.classes()) and pos_label not in classes and len(classes) == 2:
            raise ValueError(f"pos_label={pos_label!r} is not one of the classes {classes}")
        return float(measure(counts.per_class([pos_label]))[0])
    if average == "micro":
        return float(measure(PerClass(*(counter.sum(keepdims=True) for counter in per_class)))[0])
    values = measure(per_class)
    if average is None:
        return values
    if average == "macro":
        return float(values.mean())
    if average == "weighted":
        total = per_class.references.sum()
        return float(values @ per_class.references / total) if total else 0.0
    raise ValueError(f"average={average!r} is not one of binary, macro, micro, weighted and None (each class)")


def _dot(one: np.ndarray, other: np.ndarray) -> int:
    return sum(a * b for a, b in zip(one.tolist(), other.tolist(), strict=True))
