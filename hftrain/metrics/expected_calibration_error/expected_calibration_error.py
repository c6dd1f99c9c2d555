"""How far confidence is from accuracy, 0 to 1, over bins of confidence (Guo et al., 2017,
https://arxiv.org/abs/1706.04599).

    compute(prediction_scores, references, bins=15)
    -> {"expected_calibration_error", "edges" (bins + 1,), "count", "confidence", "accuracy" (bins,)}

Probabilities are (N,), of class 1; `load("expected_calibration_error", "multiclass")`: (N, K), of which the largest
counts; `load("expected_calibration_error", "multilabel")`: (N, L), of which each counts. Raises ValueError for other
numbers.
"""

from hftrain.metrics import face


class ExpectedCalibrationError(face.Face): ...
