"""Our metrics as `evaluate.Metric`s, which `evaluate.load` finds in the folders beside this file.

Only these need `evaluate`. A folder's module is its documentation and a class that names a row of the table.
"""

from __future__ import annotations

import sys
from inspect import getdoc
from typing import Any

import datasets
import evaluate

from hftrain.metrics import answers, calibration, counts, entities, ranking, regression
from hftrain.metrics.checks import Values
from hftrain.metrics.table import MULTI, TABLE, Metric

TEXT, CLASS, NUMBER = datasets.Value("string"), datasets.Value("int64"), datasets.Value("float64")


class Face(evaluate.Metric):
    """All predictions at once. A subclass has the module's docstring as its description, and the module's name as its
    name in the table."""

    cite = ""

    @property
    def key(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    def _info(self) -> evaluate.MetricInfo:
        features = _features(TABLE[self.key], self.config_name)
        return evaluate.MetricInfo(
            description=getdoc(sys.modules[type(self).__module__]), citation=self.cite, features=features
        )

    def _infer_feature_from_batch(self, batch: dict[str, list]) -> datasets.Features:
        if not all(len(column) for column in batch.values()):  # evaluate would read the first item of an empty list
            raise ValueError("nothing to score: " + ", ".join(f"{len(texts)} {name}" for name, texts in batch.items()))
        return super()._infer_feature_from_batch(batch)

    def _compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, Any]:
        metric = TABLE[self.key]
        several = _several_labels(metric, self.config_name)
        value = _score(metric, several, predictions, references, options.pop("prediction_scores", None), **options)
        return value if isinstance(value, dict) else {self.key: value}


def _several_labels(metric: Metric, config_name: str) -> bool:
    return config_name == "multilabel" and MULTI in metric.tasks


def _features(metric: Metric, config_name: str) -> Any:
    """The columns of a metric, or a list of alternatives."""
    labels = datasets.Sequence(CLASS) if _several_labels(metric, config_name) else CLASS
    match metric.state:
        case "texts":
            return [datasets.Features(predictions=TEXT, references=texts) for texts in (datasets.Sequence(TEXT), TEXT)]
        case "text":
            return datasets.Features(predictions=TEXT, references=TEXT)
        case "counts":
            return datasets.Features(predictions=labels, references=labels)
        case "moments" | "pairs":
            return datasets.Features(predictions=NUMBER, references=NUMBER)
        case "column":
            return datasets.Features(prediction_scores=NUMBER, references=CLASS)
        case "scores" | "bins":
            scores = datasets.Sequence(NUMBER) if config_name in ("multiclass", "multilabel") else NUMBER
            return datasets.Features(prediction_scores=scores, references=labels)
        case "entities":
            return datasets.Features(predictions=datasets.Sequence(TEXT), references=datasets.Sequence(TEXT))
        case _:
            answers = {"text": datasets.Sequence(TEXT), "answer_start": datasets.Sequence(datasets.Value("int32"))}
            answer = {"id": TEXT, "prediction_text": TEXT}
            if metric.state == "answers_v2":
                answer["no_answer_probability"] = NUMBER
            return datasets.Features(predictions=answer, references={"id": TEXT, "answers": answers})


def _score(
    metric: Metric, several: bool, predictions: Any, references: Any, scores: Values | None, **options: Any
) -> Any:
    """The value of all examples; the options are those of the metric's function."""
    function = metric.load()
    state: Any
    match metric.state:
        case "texts" | "text":
            return function(predictions, references, **options)
        case "counts":
            state = counts.LabelCounts() if several else counts.Counts()
        case "moments" | "pairs":
            state = regression.Moments() if metric.state == "moments" else regression.Pairs()
        case "scores" | "column":
            state = ranking.Scores()
        case "bins":
            state = calibration.Bins.of(options.pop("bins", calibration.BINS))
        case "entities":
            scheme, mode = options.pop("scheme", None), options.pop("mode", None)
            if mode not in (None, "strict") or (mode == "strict") != (scheme is not None):
                raise ValueError(f"mode={mode!r} with scheme={scheme!r}: set both (mode 'strict') or neither")
            state, function = entities.Entities(scheme), entities.seqeval
        case _:
            state = answers.Answers(answers.score_v2 if metric.state == "answers_v2" else answers.score_v1)
            predictions = answers.paired(predictions, references)
            references = [question["answers"]["text"] for question in references]
            if metric.state == "answers_v2":
                scores = [answer["no_answer_probability"] for answer in predictions]
            predictions = [answer["prediction_text"] for answer in predictions]
    state.add(predictions, references, scores)
    if metric.state == "bins":
        return {"expected_calibration_error": function(state, **options), **calibration.reliability(state)}
    return function(*state.columns() if metric.state == "column" else [state], **options)
