"""The mean of the squared errors.

    compute(predictions, references) -> {"mse"}

Raises ValueError for no predictions, or another number of references, or a number that is not finite.
"""

from typing import Any

import datasets
import evaluate

from hftrain.metrics import regression


class Mse(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("float64")
        features = datasets.Features(predictions=value, references=value)
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions: list, references: list) -> dict[str, Any]:
        state = regression.Moments()
        state.add(predictions, references)
        return {"mse": regression.mse(state)}
