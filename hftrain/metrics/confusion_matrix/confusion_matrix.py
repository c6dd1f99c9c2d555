"""How often class i (row) was predicted to be class j (column).

    compute(predictions, references, labels=None) -> {"confusion_matrix": (K, K) array}

`labels` are the classes and their order, None: those that occur. Raises ValueError for no predictions, or another
number of references.
"""

from hftrain.metrics import face


class ConfusionMatrix(face.Face): ...
