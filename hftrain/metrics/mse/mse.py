"""The mean of the squared errors.

    compute(predictions, references) -> {"mse"}

Raises ValueError for no predictions, or another number of references, or a number that is not finite.
"""

from hftrain.metrics import face


class Mse(face.Face): ...
