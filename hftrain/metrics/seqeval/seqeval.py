"""Precision, recall and F1 (0 to 1) of named entities, whole spans of one type, as conlleval and seqeval count them.

    compute(predictions, references, scheme=None, mode=None)
    -> {type: {"precision", "recall", "f1", "number"}, "overall_precision", "overall_recall", "overall_f1",
        "overall_accuracy"}

Tags are those of IOB2 or IOBES (BIOES), a list for each sentence. `mode="strict"` counts as entities only what
`scheme`, "IOB2" or "IOBES", does. Raises ValueError for no tags, other tags, or sentences of another length.
"""

from typing import Any

import datasets
import evaluate

from hftrain.metrics import entities


class Seqeval(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        features = datasets.Features(predictions=tags, references=tags)
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(
        self, predictions: list, references: list, scheme: str | None = None, mode: str | None = None
    ) -> dict[str, Any]:
        if mode not in (None, "strict") or (mode == "strict") != (scheme is not None):
            raise ValueError(f"mode={mode!r} with scheme={scheme!r}: set both (mode 'strict') or neither")
        state = entities.Entities(scheme)
        state.add(predictions, references)
        return entities.seqeval(state)
