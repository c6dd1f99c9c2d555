"""True over false positives at every threshold, for class 1 against 0.

    compute(prediction_scores, references) -> {"fpr", "tpr", "thresholds"}: arrays

Raises ValueError where a class is true never or always.
"""

from hftrain.metrics import face


class RocCurve(face.Face): ...
