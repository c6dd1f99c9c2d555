"""chrF, and chrF++ with word_order=2, in percent (Popovic, 2015, https://aclanthology.org/W15-3049; 2017).

    compute(predictions, references, **options) -> {"score", "char_order", "word_order", "beta", "signature"}

A reference is a text or a list of texts, equally many for each prediction; the options are those of
`sacrebleu.metrics.CHRF`. Raises ValueError for no predictions, or another number of references.
"""

from hftrain.metrics import face

CITATION = """
@inproceedings{popovic-2015-chrf, title={chr{F}: character n-gram {F}-score},
author={Popovi{\'c}, Maja}, year={2015}}"""


class ChrF(face.Face):
    cite = CITATION
