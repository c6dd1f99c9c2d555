"""The correlation (-1 to 1) of the ranks (Spearman, 1904); NaN where the predictions are all equal.

    compute(predictions, references) -> {"spearmanr"}

Raises ValueError for no predictions, or another number of references, a number that is not finite, or references that
are all equal.
"""

from typing import Any

import datasets
import evaluate

from hftrain.metrics import regression


class Spearmanr(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("float64")
        features = datasets.Features(predictions=value, references=value)
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions: list, references: list) -> dict[str, Any]:
        state = regression.Pairs()
        state.add(predictions, references)
        return {"spearmanr": regression.spearman(state)}
