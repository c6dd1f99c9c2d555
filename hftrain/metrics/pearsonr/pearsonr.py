"""Pearson's correlation (-1 to 1) with the references; NaN where the predictions are all equal.

    compute(predictions, references) -> {"pearsonr"}

Raises ValueError for no predictions, or another number of references, a number that is not finite, or references that
are all equal.
"""

from typing import Any

import datasets
import evaluate

from hftrain.metrics import regression


class Pearsonr(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("float64")
        features = datasets.Features(predictions=value, references=value)
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions: list, references: list) -> dict[str, Any]:
        state = regression.Moments()
        state.add(predictions, references)
        return {"pearsonr": regression.pearson(state)}
