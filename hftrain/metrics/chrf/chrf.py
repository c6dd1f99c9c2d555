"""chrF, and chrF++ with word_order=2, in percent (Popovic, 2015, https://aclanthology.org/W15-3049; 2017).

    compute(predictions, references, **options) -> {"score", "char_order", "word_order", "beta", "signature"}

A reference is a text or a list of texts, equally many for each prediction; the options are those of
`sacrebleu.metrics.CHRF`. Raises ValueError for no predictions, or another number of references.
"""

from typing import Any

import datasets
import evaluate
from sacrebleu.metrics import CHRF

TEXT = datasets.Value("string")
CITATION = """
@inproceedings{popovic-2015-chrf, title={chr{F}: character n-gram {F}-score},
author={Popovi{\'c}, Maja}, year={2015}}"""


class ChrF(evaluate.Metric):
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
        metric = CHRF(**options)
        score = metric.corpus_score(predictions, [list(column) for column in zip(*several, strict=True)])
        return {
            "score": score.score,
            "char_order": score.char_order,
            "word_order": score.word_order,
            "beta": score.beta,
            "signature": str(metric.get_signature()),
        }
