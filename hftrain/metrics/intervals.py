"""How well a score is known: 95 % intervals."""

from __future__ import annotations

import math

Z = 1.959963984540054  # of the normal distribution, 95 % lie within +-Z


def wilson(successes: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `successes` of `total` were seen (Wilson 1927); (0, 1) of nothing."""
    if not total:
        return 0.0, 1.0
    share, square = successes / total, Z * Z / total
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / total + square / total / 4)
    return max(0.0, middle - half), min(1.0, middle + half)
