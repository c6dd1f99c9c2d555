"""The share of the references' variance that the predictions explain, 1 at most; not rounded.

    compute(predictions, references) -> {"r_squared"}

Raises ValueError for no predictions, or another number of references, a number that is not finite, or references that
are all equal.
"""

from typing import Any

import datasets
import evaluate

from hftrain.metrics import regression


class RSquared(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("float64")
        features = datasets.Features(predictions=value, references=value)
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions: list, references: list) -> dict[str, Any]:
        state = regression.Moments()
        state.add(predictions, references)
        return {"r_squared": regression.r_squared(state)}
