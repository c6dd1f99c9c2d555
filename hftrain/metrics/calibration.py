"""Calibration of probabilities: the expected calibration error and the bins of the reliability diagram."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hftrain.metrics.checks import Values, class_ids, numbers, same_length, some

BINS = 15  # as in Guo et al.


@dataclass
class Bins:
    """For the examples with a confidence in ((b - 1) / B, b / B]: their number, the sum of their confidences, how many
    are correct.

    The confidence is the probability of the most probable class, or for independent labels each label's probability.
    """

    sums: np.ndarray = field(default_factory=lambda: np.zeros((3, BINS)))

    @classmethod
    def of(cls, bins: int) -> Bins:
        return cls(np.zeros((3, bins)))

    def add(self, predictions: Values, references: Values, scores: Values) -> None:
        """Probabilities (N, K) with classes (N,); or (N,), (N, L) of labels with references 0 and 1 of the same shape.

        Raises:
            ValueError: scores are missing, not finite or not probabilities, or their shape does not fit.
        """
        if scores is None:
            raise ValueError("the calibration error needs scores: a probability for each example and class")
        same_length(scores=scores, references=references)
        if not len(references):
            return
        scores, references = numbers("scores", scores), class_ids("references", references)
        if ((scores < 0) | (scores > 1 + 1e-6)).any():
            raise ValueError(
                f"scores from {scores.min():.4g} to {scores.max():.4g} are not probabilities: apply softmax or sigmoid"
            )
        if references.ndim + 1 == scores.ndim:
            confidence, correct = scores.max(axis=-1), scores.argmax(axis=-1) == references
        elif references.shape == scores.shape:
            confidence, correct = scores.ravel(), references.ravel() == 1
        else:
            raise ValueError(f"scores {scores.shape} do not fit references {references.shape}")
        bins = self.sums.shape[1]
        edges = np.linspace(0, 1, bins + 1, dtype=np.float64)
        confidence = confidence.astype(np.float64)
        place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
        weights = (None, confidence, correct)
        self.sums = self.sums + np.stack([np.bincount(place, weight, minlength=bins) for weight in weights])

    def merge(self, other: Bins) -> None:
        self.sums = self.sums + other.sums


def expected_calibration_error(bins: Bins) -> float:
    """Sum over bins of n_b / n |share right - mean confidence| (Guo et al., 2017, eq. 3), 0 to 1."""
    count, confidence, correct = bins.sums
    some(int(count.sum()))
    return float(np.abs(correct - confidence).sum() / count.sum())


def reliability(bins: Bins) -> dict[str, np.ndarray]:
    """{"edges" (B + 1,), "count", "confidence", "accuracy" (B,)}; NaN where a bin is empty."""
    count, confidence, correct = bins.sums
    filled = np.where(count > 0, count, np.nan)
    edges = np.linspace(0, 1, len(count) + 1)
    return {
        "edges": edges,
        "count": count.astype(np.int64),
        "confidence": confidence / filled,
        "accuracy": correct / filled,
    }
