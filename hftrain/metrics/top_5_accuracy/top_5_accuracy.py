"""The share of the examples whose class is among the 5 that are scored highest.

    load("top_5_accuracy", "multiclass").compute(prediction_scores, references) -> {"top_5_accuracy"}

Scores are (N, K) with one column for each class.
"""

from hftrain.metrics import face


class TopFiveAccuracy(face.Face): ...
