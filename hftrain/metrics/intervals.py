"""95 % intervals of scores: how far they may be from the scores of many more test examples.

`wilson` for a share of examples, `mean` and `ratio` for means, `bootstrap` for everything else. An interval reflects
only the choice of test examples, not the seed of the training.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping

import numpy as np

from hftrain.metrics.checks import Values, some

logger = logging.getLogger(__name__)

Interval = tuple[float, float]

LEVEL = 0.95
Z = 1.959963984540054  # the value of the normal distribution with 2.5 % above it
FEWEST = 40  # fewest resamples whose outer 2.5 % are at least one value


def wilson(successes: float, total: int) -> Interval:
    """The interval of a share, `successes` of `total` examples (Wilson, 1927): never beyond 0 and 1, and of a certain
    width at 0 and 1 too.

    Raises:
        ValueError: `total` is 0.
    """
    some(total)
    share, z2 = successes / total, Z * Z / total
    middle = (share + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total)) / (1 + z2)
    # rounding must not leave a share of 0 or 1 outside
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def mean(values: Values) -> Interval | None:
    """The interval of the mean of (N,) values, by the normal distribution; None for fewer than two."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return None
    middle, half = float(values.mean()), Z * float(values.std(ddof=1)) / math.sqrt(len(values))
    return middle - half, middle + half


def ratio(sums: Values, counts: Values) -> Interval | None:
    """The interval of sum(sums) / sum(counts), a mean over items (tokens) that come in N groups (documents), (N,) each:
    by the normal distribution, with the variance of a ratio of means (Cochran, 1977, eq. 6.13). None for fewer than
    two."""
    sums, counts = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if len(sums) < 2:
        return None
    middle = sums.sum() / counts.sum()
    half = Z * math.sqrt(len(sums)) * float(np.std(sums - middle * counts, ddof=1)) / counts.sum()
    return float(middle - half), float(middle + half)


def bootstrap(
    compute: Callable[[np.ndarray], Mapping[str, float]],
    size: int,
    seed: int = 42,
    resamples: int | None = None,
    budget: float = 2.0,
) -> dict[str, Interval]:
    """Percentile intervals (Efron, 1979) of the scores of `size` examples.

    Args:
        compute: indices of `size` examples, drawn with replacement -> {score: value}. A score that is not defined for
            them is left out.
        resamples: None: 400; fewer, but at least 100, for more than 5,000 examples, whose intervals are narrow anyway.
        budget: seconds of this thread after which resampling stops; the log then has the number of resamples.
            The first k resamples do not depend on the budget.

    Returns:
        no interval for a score that most resamples leave out, with fewer than 40 resamples, or if all resamples agree:
            an interval of width 0 would be too optimistic for so few examples.
    """
    some(size)
    wanted = resamples or max(100, min(400, 2_000_000 // size))
    generator, began = np.random.Generator(np.random.PCG64(seed)), time.thread_time()
    drawn: list[Mapping[str, float]] = []
    while len(drawn) < wanted and (not drawn or time.thread_time() - began < budget):
        drawn.append(compute(generator.integers(size, size=size)))
    if len(drawn) < wanted:
        advice = (len(drawn), wanted, budget)
        logger.warning(
            "95 %% intervals use %d resamples of the test rows, not %d: the time limit of %g s is over", *advice
        )
    intervals = {}
    for name in dict.fromkeys(name for scores in drawn for name in scores):
        values = [scores[name] for scores in drawn if name in scores]
        low, high = (float(value) for value in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
        if low < high and len(values) >= max(FEWEST, len(drawn) / 2):
            intervals[name] = low, high
    return intervals
