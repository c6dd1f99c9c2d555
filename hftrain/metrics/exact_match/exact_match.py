"""The share (0 to 1) of predictions that equal their reference, character for character.

    compute(predictions, references) -> {"exact_match"}

Raises ValueError for no predictions, or another number of references.
"""

import datasets
import evaluate

TEXT = datasets.Value("string")


class ExactMatch(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(predictions=TEXT, references=TEXT)
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        if not predictions:
            raise ValueError("nothing to score: 0 predictions")
        equal = sum(prediction == reference for prediction, reference in zip(predictions, references, strict=True))
        return {"exact_match": equal / len(predictions)}
