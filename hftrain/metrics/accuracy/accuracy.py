"""The share (0 to 1) of predictions that are right.

    compute(predictions, references) -> {"accuracy"}

One class for each example; `load("accuracy", "multilabel")`: any of L labels, lists of 0 and 1, all of which have to be
right. Raises ValueError for no predictions, or another number of references.
"""

from typing import Any

import datasets
import evaluate

from hftrain.metrics import counts


class Accuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("int64")
        column = datasets.Sequence(value) if self.config_name == "multilabel" else value
        features = datasets.Features(predictions=column, references=column)
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions: list, references: list) -> dict[str, Any]:
        state = counts.LabelCounts() if self.config_name == "multilabel" else counts.Counts()
        state.add(predictions, references)
        return {"accuracy": counts.accuracy(state)}
