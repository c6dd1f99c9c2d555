"""The correlation (-1 to 1) of predicted and true classes, two or more (Matthews, 1975; Gorodkin, 2004).

    compute(predictions, references) -> {"matthews_correlation"}

0 where all predictions, or all references, are one class. Raises ValueError for no predictions, or another number of
references.
"""

from hftrain.metrics import face


class MatthewsCorrelation(face.Face): ...
