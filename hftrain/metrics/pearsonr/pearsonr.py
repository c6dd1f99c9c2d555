"""Pearson's correlation (-1 to 1) with the references; NaN where the predictions are all equal.

    compute(predictions, references) -> {"pearsonr"}

Raises ValueError for no predictions, or another number of references, a number that is not finite, or references that
are all equal.
"""

from hftrain.metrics import face


class Pearsonr(face.Face): ...
