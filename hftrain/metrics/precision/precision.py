"""The share (0 to 1) of what was predicted that is right.

    compute(predictions, references, labels=None, pos_label=1, average="binary") -> {"precision"}

`average` is binary, macro, micro, weighted or None (an array, one for each class); see `hftrain.metrics.counts.f1`.
One class for each example; `load("precision", "multilabel")`: any of L labels, lists of 0 and 1.
Raises ValueError for no predictions, another number of references, or an average that does not fit.
"""

from typing import Any

import datasets
import evaluate

from hftrain.metrics import counts


class Precision(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("int64")
        column = datasets.Sequence(value) if self.config_name == "multilabel" else value
        features = datasets.Features(predictions=column, references=column)
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(
        self,
        predictions: list,
        references: list,
        labels: list | None = None,
        pos_label: int = 1,
        average: Any = "binary",
    ) -> dict[str, Any]:
        state = counts.LabelCounts() if self.config_name == "multilabel" else counts.Counts()
        state.add(predictions, references)
        return {"precision": counts.precision(state, average, labels=labels, pos_label=pos_label)}
