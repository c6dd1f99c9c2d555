"""The share (0 to 1) of correct predictions.

    compute(predictions, references) -> {"accuracy"}

One class for each example; `load("accuracy", "multilabel")`: any of L labels, lists of 0 and 1, all of which have to be
right. Raises ValueError for no predictions, or another number of references.
"""

from hftrain.metrics import face


class Accuracy(face.Face): ...
