"""The mean of the absolute errors.

    compute(predictions, references) -> {"mae"}

Raises ValueError for no predictions, or another number of references, or a number that is not finite.
"""

from hftrain.metrics import face


class Mae(face.Face): ...
