"""The share (0 to 1) of predictions that equal their reference, character for character.

    compute(predictions, references) -> {"exact_match"}

Raises ValueError for no predictions, or another number of references.
"""

from hftrain.metrics import face


class ExactMatch(face.Face): ...
