"""How often class i (row) was predicted to be class j (column).

    compute(predictions, references, labels=None) -> {"confusion_matrix": (K, K) array}

`labels` are the classes and their order, None those that are seen. Raises ValueError for no predictions, or another
number of references.
"""

from typing import Any

import datasets
import evaluate

from hftrain.metrics import counts


class ConfusionMatrix(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("int64")
        features = datasets.Features(predictions=value, references=value)
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions: list, references: list, labels: list | None = None) -> dict[str, Any]:
        state = counts.Counts()
        state.add(predictions, references)
        return {"confusion_matrix": state.matrix(labels)}
