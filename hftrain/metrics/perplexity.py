"""What follows from the mean loss of a language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from hftrain.metrics.intervals import Interval


def readings(loss: float) -> dict[str, float]:
    """A mean loss in nats, and the perplexity of a token."""
    return {"loss": loss, "perplexity": math.exp(min(loss, 700))}


def intervals(
    interval: Interval | None, read: Callable[[float], Mapping[str, float]], prefix: str
) -> dict[str, Interval]:
    """The intervals of the scores that `read` makes of a loss, and that rise with it; {} where `interval` is None."""
    if interval is None:
        return {}
    low, high = map(read, interval)
    return {f"{prefix}{name}": (low[name], high[name]) for name in low}
