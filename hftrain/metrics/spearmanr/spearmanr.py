"""The correlation (-1 to 1) of the ranks (Spearman, 1904); NaN where the predictions are all equal.

    compute(predictions, references) -> {"spearmanr"}

Raises ValueError for no predictions, or another number of references, a number that is not finite, or references that
are all equal.
"""

from hftrain.metrics import face


class Spearmanr(face.Face): ...
