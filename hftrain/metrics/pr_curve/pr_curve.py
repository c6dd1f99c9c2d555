"""Precision over recall at every threshold, for class 1 against 0.

    compute(prediction_scores, references) -> {"precision", "recall", "thresholds"}: arrays

Raises ValueError where a class is true never or always.
"""

from typing import Any

import datasets
import evaluate

from hftrain.metrics import ranking


class PrCurve(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(prediction_scores=datasets.Value("float64"), references=datasets.Value("int64"))
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, prediction_scores: list, references: list) -> dict[str, Any]:
        state = ranking.Scores()
        state.add(None, references, prediction_scores)
        return ranking.pr_curve(*state.columns())
