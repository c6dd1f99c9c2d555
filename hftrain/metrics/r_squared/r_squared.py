"""The share of the references' variance that the predictions explain, 1 at most; not rounded.

    compute(predictions, references) -> {"r_squared"}

Raises ValueError for no predictions, or another number of references, a number that is not finite, or references that
are all equal.
"""

from hftrain.metrics import face


class RSquared(face.Face): ...
