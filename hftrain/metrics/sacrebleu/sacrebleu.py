"""BLEU in percent with the signature that makes it comparable (Post, 2018, https://aclanthology.org/W18-6319).

    compute(predictions, references, **options)
    -> {"score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len", "signature"}

A reference is a text or a list of texts, equally many for each prediction; the options are those of
`sacrebleu.metrics.BLEU`. Raises ValueError for no predictions, or another number of references.
"""

from typing import Any

import datasets
import evaluate
from sacrebleu.metrics import BLEU

TEXT = datasets.Value("string")
CITATION = """
@inproceedings{post-2018-call, title={A Call for Clarity in Reporting {BLEU} Scores},
author={Post, Matt}, year={2018}}"""


class Sacrebleu(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation=CITATION,
            features=[
                datasets.Features(predictions=TEXT, references=references)
                for references in (datasets.Sequence(TEXT), TEXT)
            ],
        )

    def _infer_feature_from_batch(self, batch: dict[str, list]) -> datasets.Features:
        if not all(len(column) for column in batch.values()):  # evaluate would look at the first of none
            raise ValueError("nothing to score: " + ", ".join(f"{len(texts)} {name}" for name, texts in batch.items()))
        return super()._infer_feature_from_batch(batch)

    def _compute(self, predictions: list[str], references: list, **options: Any) -> dict[str, Any]:
        several = [[texts] if isinstance(texts, str) else texts for texts in references]
        if len({len(texts) for texts in several}) != 1:
            raise ValueError("every prediction needs the same number of references")
        metric = BLEU(**options)
        score = metric.corpus_score(predictions, [list(column) for column in zip(*several, strict=True)])
        return {
            "score": score.score,
            "counts": score.counts,
            "totals": score.totals,
            "precisions": score.precisions,
            "bp": score.bp,
            "sys_len": score.sys_len,
            "ref_len": score.ref_len,
            "signature": str(metric.get_signature()),
        }
