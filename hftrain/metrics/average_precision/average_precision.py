"""The mean of the precision at each threshold, weighted by the recall it adds.

    compute(prediction_scores, references, average="macro") -> {"average_precision"}

Scores are (N,), of class 1 against 0; `load("average_precision", "multiclass")`: (N, K) with one class each, against
the rest; `load("average_precision", "multilabel")`: (N, L) with 0 and 1 for each label. `average` is macro, micro,
weighted or None (an array). Raises ValueError where a class is true never or always.
"""

from hftrain.metrics import face


class AveragePrecision(face.Face): ...
