"""The share of the examples whose class is among the 3 that are scored highest.

    load("top_3_accuracy", "multiclass").compute(prediction_scores, references) -> {"top_3_accuracy"}

Scores are (N, K) with one column for each class.
"""

from hftrain.metrics import face


class TopThreeAccuracy(face.Face): ...
