"""The share (0 to 1) of predictions of a class that are correct.

    compute(predictions, references, labels=None, pos_label=1, average="binary") -> {"precision"}

`average` is binary, macro, micro, weighted or None (an array, one for each class); see `hftrain.metrics.counts.f1`.
One class for each example; `load("precision", "multilabel")`: any of L labels, lists of 0 and 1.
Raises ValueError for no predictions, another number of references, or an average that does not fit.
"""

from hftrain.metrics import face


class Precision(face.Face): ...
