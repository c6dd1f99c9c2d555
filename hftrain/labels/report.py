"""The report and the model card of labels and their scores. Shapes: N examples, K classes or labels."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hftrain.data.several import scores_by_source
from hftrain.data.splits import sizes
from hftrain.labels.config import LabelConfig
from hftrain.labels.judging import judge
from hftrain.labels.scoring import Scores, decide, measure
from hftrain.metrics import Metrics
from hftrain.report import Figure, Report, Table
from hftrain.report.charts import histogram
from hftrain.report.described import share
from hftrain.report.evaluated import evaluation_figures, per_class_table

if TYPE_CHECKING:
    from hftrain.data.examples import Examples
    from hftrain.data.rows import Rows

WORST = 50  # rows in the table of the examples with the highest loss
NAMED = 10  # maximum classes in the first sentence
CLASSES = 30  # maximum classes in the table of the data


class Tested(NamedTuple):
    """A trained classifier on its data: all that a report shows besides the settings."""

    rows: "Mapping[str, Rows]"
    examples: "Mapping[str, Examples]"
    scores: Scores  # of the test rows
    references: Mapping[str, np.ndarray]  # of each split
    names: Sequence[str]  # of the classes, by their numbers
    ids: Mapping[str, int]
    thresholds: Sequence[float]


def title(config: LabelConfig) -> str:
    names = [Path(name).name.split(".")[0] for name in config.train_file or ()]
    what = ", ".join(names) or str(config.dataset_name)
    return f"Classification of {what}"


def lead(config: LabelConfig, rows: "Mapping[str, Rows]", names: Sequence[str], what: str) -> str:
    """One or two sentences on the model and its data; `what` is one input: "a text"."""
    listed = ": " + ", ".join(names) if len(names) <= NAMED else ""
    sentences = {
        "single_label_classification": f"Predicts one of {len(names)} classes for {what}{listed}.",
        "multi_label_classification": f"Predicts which of {len(names)} labels {what} has{listed}.",
        "regression": f"Predicts the number {config.label_column[0]} for {what}.",
    }[config.problem_type]
    return f"{sentences} Rows: {sizes(rows)}."


def count_labels(rows: "Rows", names: Sequence[str], ids: Mapping[str, int]) -> dict[str, str]:
    """The rows of each class, for the table of the data; a label that is a number also has the name of its class. {}
    for many classes and for regression."""
    labels = Counter(name for label in rows["label"] for name in (label if isinstance(label, list) else [label]))
    if len(labels) > CLASSES or any(isinstance(label, float) for label in labels):
        return {}
    counts = {}
    for label in sorted(labels):
        meaning = "" if names[ids[label]] == label else f" = {names[ids[label]]}"
        counts[f"label {label}{meaning}"] = share(labels[label], len(rows))
    return counts


def report_labels(
    config: LabelConfig,
    tested: Tested,
    *,
    task: str,
    what: str,
    usage: str,
    data: Mapping[str, Any],
    show: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    more: Sequence[Figure] = (),
) -> Report:
    """What the report shows: the scores of the test rows, and the data.

    Args:
        task: pipeline tag of the Hub. `what`: one input, "a text".
        show: a row -> its columns in the table of the worst examples.
        more: further figures of the task.
    """
    rows, _, scores, references, names, _, thresholds = tested
    truth = references["test"]
    numbers, metrics = measure(scores, truth, config, names, thresholds, report=True)
    return Report(
        title=title(config),
        task=task,
        metric=next(name for name in numbers if name != "loss"),
        scores=numbers,
        usage=usage,
        lead=lead(config, rows, names, what),
        data=data,
        figures=[*figures(metrics, scores, truth, config.problem_type), *more],
        tables=tables(metrics, rows["test"], scores, truth, names, thresholds, config.problem_type, show),
        **judge(scores, truth, references["train"], config, names, thresholds),
    )


def figures(metrics: Metrics, scores: Scores, references: np.ndarray, problem: str) -> list[Figure]:
    """Figures of the test rows: confusions, ROC, precision and recall, calibration, or the errors of numbers."""
    charts = evaluation_figures(metrics)
    if problem == "regression":
        errors = scores.outputs[:, 0] - references
        charts.append(histogram("errors", "Errors", errors, x_label="prediction - label", whole=False))
    return charts


def tables(
    metrics: Metrics,
    rows: "Rows",
    scores: Scores,
    references: np.ndarray,
    names: Sequence[str],
    thresholds: Sequence[float],
    problem: str,
    show: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> list[Table]:
    """Tables of the test rows: scores by class, thresholds, and the examples with the highest loss."""
    shown = per_class_table(metrics)
    if problem == "multi_label_classification":
        chosen = [{"label": name, "threshold": limit} for name, limit in zip(names, thresholds, strict=True)]
        shown.append(
            Table(
                "Thresholds",
                chosen,
                note="A label is predicted from this probability on, chosen on the validation rows.",
            )
        )
    predictions = decide(scores.outputs, problem, thresholds)
    shares: dict[str, Any] = {"loss": scores.losses}
    if problem != "regression":
        correct = np.asarray(predictions) == references
        shares |= {"accuracy": correct if correct.ndim == 1 else correct.all(axis=1)}
    if sources := scores_by_source(rows, **shares):
        note = "" if problem != "multi_label_classification" else "accuracy: rows with all labels correct"
        shown.append(Table("By source", sources, note=note))
    worst = [
        {
            **show(rows[place]),
            "label": in_words(references[place], names, problem),
            "predicted": in_words(predictions[place], names, problem),
            "loss": float(scores.losses[place]),
        }
        for place in np.argsort(-scores.losses, kind="stable")[:WORST].tolist()
    ]
    note = "The test rows with the highest loss: hard examples, and some whose reference label is wrong."
    return [*shown, Table("Worst examples", worst, note=note, visible=10)]


def in_words(label: Any, names: Sequence[str], problem: str) -> Any:
    """A class's number, 0 and 1 of several labels, or a number, as text for a reader."""
    if problem == "regression":
        return float(label)
    if problem == "single_label_classification":
        return names[label]
    return ", ".join(names[number] for number in np.flatnonzero(label).tolist()) or "none"
