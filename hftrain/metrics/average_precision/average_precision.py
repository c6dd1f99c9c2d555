"""The mean of the precision at each threshold, weighted by the recall it adds.

    compute(prediction_scores, references, average="macro") -> {"average_precision"}

Scores are (N,), of class 1 against 0; `load("average_precision", "multiclass")`: (N, K) with one class each, against
the rest; `load("average_precision", "multilabel")`: (N, L) with 0 and 1 for each label. `average` is macro, micro,
weighted or None (an array). Raises ValueError where a class is true never or always.
"""

from typing import Any

import datasets
import evaluate

from hftrain.metrics import ranking


class AveragePrecision(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        several = self.config_name in ("multiclass", "multilabel")
        score, class_ = datasets.Value("float64"), datasets.Value("int64")
        features = datasets.Features(
            prediction_scores=datasets.Sequence(score) if several else score,
            references=datasets.Sequence(class_) if self.config_name == "multilabel" else class_,
        )
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, prediction_scores: list, references: list, average: Any = "macro") -> dict[str, Any]:
        state = ranking.Scores()
        state.add(None, references, prediction_scores)
        return {"average_precision": ranking.average_precision(state, average)}
