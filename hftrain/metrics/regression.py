"""Regression and correlation. All except Spearman are computed from moments, which merge without loss of precision."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hftrain.metrics.checks import Values, numbers, same_length, some


@dataclass
class Moments:
    """n, means, sums of squares and products about the means (Chan, Golub & LeVeque, 1983), and sums of errors."""

    n: int = 0
    means: np.ndarray = field(default_factory=lambda: np.zeros(2))  # of predictions, references
    products: np.ndarray = field(default_factory=lambda: np.zeros((2, 2)))
    errors: np.ndarray = field(default_factory=lambda: np.zeros(2))  # sums of absolute errors, of squared errors

    def add(self, predictions: Values, references: Values, scores: Values | None = None) -> None:
        """Numbers, (N,) each."""
        pair = _pair(predictions, references)
        if n := pair.shape[1]:
            means = pair.mean(axis=1)
            centred, error = pair - means[:, None], pair[0] - pair[1]
            self.merge(Moments(n, means, centred @ centred.T, np.array([np.abs(error).sum(), error @ error])))

    def merge(self, other: Moments) -> None:
        if n := self.n + other.n:
            apart = other.means - self.means
            self.products = self.products + other.products + np.outer(apart, apart) * (self.n * other.n / n)
            self.means = self.means + apart * (other.n / n)
            self.errors = self.errors + other.errors
            self.n = n


@dataclass
class Pairs:
    """All predictions and references: ranks need them."""

    pairs: list[np.ndarray] = field(default_factory=list)

    def add(self, predictions: Values, references: Values, scores: Values | None = None) -> None:
        """Numbers, (N,) each."""
        self.pairs.append(_pair(predictions, references))

    def merge(self, other: Pairs) -> None:
        self.pairs += other.pairs


def mse(moments: Moments) -> float:
    """Mean of the squared errors."""
    some(moments.n)
    return float(moments.errors[1] / moments.n)


def mae(moments: Moments) -> float:
    """Mean of the absolute errors."""
    some(moments.n)
    return float(moments.errors[0] / moments.n)


def r_squared(moments: Moments) -> float:
    """1 - squared errors / squared deviations of the references: the share of their variance that is explained.

    Raises:
        ValueError: the references are all equal, or there is only one.
    """
    some(moments.n)
    _vary(moments.n, moments.products[1, 1], moments.means[1], "R squared")
    return float(1 - moments.errors[1] / moments.products[1, 1])


def pearson(moments: Moments, what: str = "Pearson's correlation") -> float:
    """-1 to 1; NaN if all predictions are equal.

    Raises:
        ValueError: the references are all equal, or there is only one.
    """
    some(moments.n)
    (spread, product), (_, wanted) = moments.products
    _vary(moments.n, wanted, moments.means[1], what)
    if _constant(spread, moments.n, moments.means[0]):
        return float("nan")
    return float(np.clip(product / np.sqrt(spread) / np.sqrt(wanted), -1, 1))


def spearman(pairs: Pairs) -> float:
    """Pearson's correlation of the ranks; equal values share the mean of their ranks. NaN and Raises: `pearson`."""
    some(sum(pair.shape[1] for pair in pairs.pairs))
    predictions, references = np.concatenate(pairs.pairs, axis=1)
    moments = Moments()
    moments.add(_ranks(predictions), _ranks(references))
    return pearson(moments, "Spearman's correlation")


def _pair(predictions: Values, references: Values) -> np.ndarray:
    same_length(predictions=predictions, references=references)
    pair = [numbers(name, values) for name, values in (("predictions", predictions), ("references", references))]
    for name, values in zip(("predictions", "references"), pair, strict=True):
        if values.ndim != 1:
            raise ValueError(f"{name} must be one number for each example, but their shape is {values.shape}")
    return np.stack(pair).astype(np.float64)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _constant(spread: float, n: int, mean: float) -> bool:
    """Whether the spread is only rounding error."""
    return bool(spread <= n * (4 * np.finfo(np.float64).eps * mean) ** 2)


def _vary(n: int, spread: float, mean: float, what: str) -> None:
    if _constant(spread, n, mean):
        alike = f"all {n} references are {mean:.6g}" if n > 1 else "there is only one reference"
        raise ValueError(f"{what} is not defined: {alike}")
