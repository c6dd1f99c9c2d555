"""Classification by counts: how often which prediction met which reference, and all that follows from that.

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
    """For each of K classes, (K,) each: how often it was right, was predicted, was the reference."""

    right: np.ndarray
    predicted: np.ndarray
    references: np.ndarray


@dataclass
class Counts:
    """One class for each example: pairs[reference, prediction] is how often. Classes are numbers or names."""

    pairs: Counter[tuple[Hashable, Hashable]] = field(default_factory=Counter)

    def add(self, predictions: Values, references: Values, scores: Values | None = None) -> None:
        """Classes, (N,) each."""
        same_length(predictions=predictions, references=references)
        self.pairs.update(zip(_classes("references", references), _classes("predictions", predictions), strict=True))

    def merge(self, other: Counts) -> None:
        self.pairs.update(other.pairs)

    def classes(self) -> list[Any]:
        """Those that were seen, in order."""
        return sorted({each for pair in self.pairs for each in pair})  # type: ignore[type-var]

    def right(self) -> int:
        return sum(count for (reference, prediction), count in self.pairs.items() if reference == prediction)

    def matrix(self, classes: Sequence[Any] | None = None) -> np.ndarray:
        """(K, K) int64: row i, column j is how often class i was predicted to be class j. None: `self.classes()`."""
        place = {each: at for at, each in enumerate(self.classes() if classes is None else classes)}
        matrix = np.zeros((len(place), len(place)), np.int64)
        for (reference, prediction), count in self.pairs.items():
            if reference in place and prediction in place:
                matrix[place[reference], place[prediction]] = count
        return matrix

    def per_class(self, classes: Sequence[Any] | None = None) -> PerClass:
        """Of the classes given, in their order; None: of those that were seen."""
        right, predicted, references = Counter[Any](), Counter[Any](), Counter[Any]()
        for (reference, prediction), count in self.pairs.items():
            predicted[prediction] += count
            references[reference] += count
            right[reference] += count * (reference == prediction)
        chosen = self.classes() if classes is None else classes
        return PerClass(*(np.array([each[one] for one in chosen], np.int64) for each in (right, predicted, references)))


@dataclass
class LabelCounts:
    """Any number of L labels for each example."""

    sums: np.ndarray = field(default_factory=lambda: np.zeros((3, 0), np.int64))  # rows as in PerClass
    examples: int = 0
    all_right: int = 0

    def add(self, predictions: Values, references: Values, scores: Values | None = None) -> None:
        """0 or 1, (N, L) each."""
        same_length(predictions=predictions, references=references)
        if not len(references):
            return
        predicted, wanted = indicators("predictions", predictions), indicators("references", references)
        if predicted.shape != wanted.shape:
            raise ValueError(f"predictions {predicted.shape} and references {wanted.shape} have other shapes")
        sums = np.stack([(predicted & wanted).sum(0), predicted.sum(0), wanted.sum(0)])
        self.merge(LabelCounts(sums, len(wanted), int((predicted == wanted).all(axis=1).sum())))

    def merge(self, other: LabelCounts) -> None:
        if other.examples:
            self.sums = self.sums + other.sums if self.examples else other.sums
            self.examples += other.examples
            self.all_right += other.all_right

    def right(self) -> int:
        """Examples whose labels are all as they should be (subset accuracy)."""
        return self.all_right

    def per_class(self, classes: Sequence[int] | None = None) -> PerClass:
        sums = self.sums if classes is None else self.sums[:, list(classes)]
        return PerClass(*sums)


def accuracy(counts: Counts | LabelCounts) -> float:
    """Share of the examples that are right; with several labels, in all of them."""
    examples = counts.examples if isinstance(counts, LabelCounts) else counts.pairs.total()
    some(examples)
    return counts.right() / examples


def precision(counts: Counts | LabelCounts, average: Average | None = "binary", **options: Any) -> Any:
    """right / predicted; 0 where nothing was predicted. Arguments as of `f1`."""
    return _averaged(counts, average, lambda each: _ratio(each.right, each.predicted), **options)


def recall(counts: Counts | LabelCounts, average: Average | None = "binary", **options: Any) -> Any:
    """right / references; 0 where there was none. Arguments as of `f1`."""
    return _averaged(counts, average, lambda each: _ratio(each.right, each.references), **options)


def f1(counts: Counts | LabelCounts, average: Average | None = "binary", **options: Any) -> Any:
    """2 right / (predicted + references), the harmonic mean of precision and recall; 0 where neither is.

    Args:
        average: binary: of `pos_label` alone. macro: mean over the classes. weighted: the same, weighted by their
            references. micro: of the sums over all classes. None: an array, (K,).
        labels: the classes that count, in the order of the result; None: all that were seen.
        pos_label: for binary.
    """
    return _averaged(counts, average, lambda each: _ratio(2 * each.right, each.predicted + each.references), **options)


def matthews(counts: Counts) -> float:
    """Correlation of prediction and reference for K classes (Gorodkin, 2004, eq. 8): -1 to 1; 0 if one is constant."""
    some(counts.pairs.total())
    right, predicted, references = counts.per_class()
    n = int(references.sum())
    # Python's integers: n^4 is more than 64 bits hold from 56,000 examples on.
    covariance = n * int(right.sum()) - _dot(predicted, references)
    spread = (n * n - _dot(predicted, predicted)) * (n * n - _dot(references, references))
    return covariance / math.sqrt(spread) if spread else 0.0


def confusion_matrix(counts: Counts, labels: Sequence[Any] | None = None) -> np.ndarray:
    """(K, K): how often class i (row) was predicted to be class j (column); `labels` as in `Counts.matrix`."""
    return counts.matrix(labels)


def indicators(name: str, values: Values) -> np.ndarray:
    """(N, L) booleans from 0 and 1.

    Raises:
        ValueError: another shape, or another number.
    """
    array = class_ids(name, values)
    if array.ndim != 2:
        raise ValueError(f"{name} with several labels are (examples, labels) of 0 and 1, but these are {array.shape}")
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} with several labels are 0 or 1, but there is a {array[(array < 0) | (array > 1)][0]}")
    return array.astype(bool)


def _classes(name: str, values: Values) -> Iterable[Hashable]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} have to be one class for each example, but they have the shape {array.shape}")
    return array.tolist() if array.dtype.kind in "US" else class_ids(name, array).tolist()


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) != 0)


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
            raise ValueError("binary is of two classes: choose macro, micro, weighted or None (each class) here")
        if (classes := counts.classes()) and pos_label not in classes and len(classes) == 2:
            raise ValueError(f"pos_label={pos_label!r} is no class here; there are {classes}")
        return float(measure(counts.per_class([pos_label]))[0])
    if average == "micro":
        return float(measure(PerClass(*(each.sum(keepdims=True) for each in per_class)))[0])
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
