"""The share (0 to 1) of references of a class that are predicted.

    compute(predictions, references, labels=None, pos_label=1, average="binary") -> {"recall"}

`average` is binary, macro, micro, weighted or None (an array, one for each class); see `hftrain.metrics.counts.f1`.
One class for each example; `load("recall", "multilabel")`: any of L labels, lists of 0 and 1.
Raises ValueError for no predictions, another number of references, or an average that does not fit.
"""

from hftrain.metrics import face


class Recall(face.Face): ...
