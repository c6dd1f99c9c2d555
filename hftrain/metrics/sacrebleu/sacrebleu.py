"""BLEU in percent with the signature that makes it comparable (Post, 2018, https://aclanthology.org/W18-6319).

    compute(predictions, references, **options)
    -> {"score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len", "signature"}

A reference is a text or a list of texts, equally many for each prediction; the options are those of
`sacrebleu.metrics.BLEU`. Raises ValueError for no predictions, or another number of references.
"""

from hftrain.metrics import face

CITATION = """
@inproceedings{post-2018-call, title={A Call for Clarity in Reporting {BLEU} Scores},
author={Post, Matt}, year={2018}}"""


class Sacrebleu(face.Face):
    cite = CITATION
