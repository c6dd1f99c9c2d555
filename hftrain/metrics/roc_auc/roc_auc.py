"""The area under the ROC curve: the probability that a positive is scored above a negative, ties half.

    compute(prediction_scores, references, average="macro") -> {"roc_auc"}

Scores are (N,), of class 1 against 0; `load("roc_auc", "multiclass")`: (N, K) with one class each, against the rest;
`load("roc_auc", "multilabel")`: (N, L) with 0 and 1 for each label.
`average` is macro, micro, weighted or None (an array). Raises ValueError where a class is true never or always.
"""

from hftrain.metrics import face


class RocAuc(face.Face): ...
