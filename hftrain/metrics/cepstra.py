"""The mel-cepstral distance of two recordings (Kubichek, 1993, https://doi.org/10.1109/PACRIM.1993.407206).

Shapes: F frames, M mel bands, D cepstral coefficients.
"""

from __future__ import annotations

import math

import numpy as np

ORDER = 13  # coefficients, without that of loudness


def cepstra(mel: np.ndarray, order: int = ORDER) -> np.ndarray:
    """(F, M) log10 of magnitudes -> (F, order + 1): cosine transform of the natural logarithm of the energies. The
    first is the mean over the bands, the loudness."""
    bands = mel.shape[1]
    waves = np.cos(np.pi / bands * np.outer(np.arange(order + 1), np.arange(bands) + 0.5))
    return mel.astype(np.float64) @ waves.T * (2 * math.log(10) / bands)


def distance(reference: np.ndarray, other: np.ndarray) -> float:
    """In dB, of two log10 mel spectrograms (F, M): 10 / ln 10 * sqrt(2 * sum of squared differences of coefficients 1
    to 13), mean over the path of dynamic time warping, which aligns the frames. Loudness does not count."""
    left, right = cepstra(reference)[:, 1:], cepstra(other)[:, 1:]
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * left @ right.T
    costs = 10 / math.log(10) * np.sqrt(2 * squares.clip(0))
    total, steps = _warped(costs)
    return total / steps


def _warped(costs: np.ndarray) -> tuple[float, int]:
    """The least sum of costs over a path from corner to corner, and the cells of that path."""
    rows, columns = costs.shape
    best = np.full((rows + 1, columns + 1), np.inf)
    steps = np.zeros((rows + 1, columns + 1), np.int64)
    best[0, 0] = 0
    for diagonal in range(2, rows + columns + 1):
        row = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        column = diagonal - row
        before = np.stack([best[row - 1, column - 1], best[row - 1, column], best[row, column - 1]])
        came = before.argmin(axis=0)
        counts = np.stack([steps[row - 1, column - 1], steps[row - 1, column], steps[row, column - 1]])
        places = np.arange(len(row))
        best[row, column] = before[came, places] + costs[row - 1, column - 1]
        steps[row, column] = counts[came, places] + 1
    return float(best[-1, -1]), int(steps[-1, -1])
