"""The correlation (-1 to 1) of predicted and true classes, two or more (Matthews, 1975; Gorodkin, 2004).

    compute(predictions, references) -> {"matthews_correlation"}

0 where all predictions, or all references, are one class. Raises ValueError for no predictions, or another number of
references.
"""

from typing import Any

import datasets
import evaluate

from hftrain.metrics import counts


class MatthewsCorrelation(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("int64")
        features = datasets.Features(predictions=value, references=value)
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions: list, references: list) -> dict[str, Any]:
        state = counts.Counts()
        state.add(predictions, references)
        return {"matthews_correlation": counts.matthews(state)}
