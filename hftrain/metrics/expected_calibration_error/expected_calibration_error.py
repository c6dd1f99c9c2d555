"""How far confidence is from accuracy, 0 to 1, over bins of confidence (Guo et al., 2017,
https://arxiv.org/abs/1706.04599).

    compute(prediction_scores, references, bins=15)
    -> {"expected_calibration_error", "edges" (bins + 1,), "count", "confidence", "accuracy" (bins,)}

Probabilities are (N,), of class 1; `load("expected_calibration_error", "multiclass")`: (N, K), of which the largest
counts; `load("expected_calibration_error", "multilabel")`: (N, L), of which each counts. Raises ValueError for other
numbers.
"""

from typing import Any

import datasets
import evaluate

from hftrain.metrics import calibration


class ExpectedCalibrationError(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        several = self.config_name in ("multiclass", "multilabel")
        score, class_ = datasets.Value("float64"), datasets.Value("int64")
        features = datasets.Features(
            prediction_scores=datasets.Sequence(score) if several else score,
            references=datasets.Sequence(class_) if self.config_name == "multilabel" else class_,
        )
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, prediction_scores: list, references: list, bins: int = 15) -> dict[str, Any]:
        state = calibration.Bins.of(bins)
        state.add(None, references, prediction_scores)
        error = calibration.expected_calibration_error(state)
        return {"expected_calibration_error": error, **calibration.reliability(state)}
