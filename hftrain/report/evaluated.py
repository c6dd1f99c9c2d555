"""The figures and the table that show the counts of `hftrain.metrics` on a test set."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hftrain.metrics import Metrics, counts, ranking
from hftrain.metrics.calibration import Bins, expected_calibration_error
from hftrain.metrics.calibration import reliability as binned
from hftrain.metrics.entities import seqeval
from hftrain.report.charts import bars, confusion_matrix, histogram, reliability
from hftrain.report.drawing import Drawn
from hftrain.report.figures import Curves, Figure, Series
from hftrain.report.page import Table

LINES = 6  # the most that a chart of curves shows


def evaluation_figures(metrics: Metrics) -> list[Figure]:
    """Figures of `metrics` (loaded with report=True): confusions or F1 by class, ROC, precision, calibration.

    Figures that a single class makes undefined are left out.
    """
    states, labels = metrics.states, metrics.labels
    figures: list[Figure] = []
    if isinstance(states.get("counts"), counts.Counts):
        figures.append(confusion_matrix(states["counts"].matrix(range(len(labels))), labels))
    elif rows := per_class(metrics):
        figures.append(f1_figure(rows))
    if "bins" in states:
        figures.append(calibration_figure(states["bins"]))
    if "scores" in states and _defined(states["scores"]):
        figures += [roc_figure(states["scores"]), pr_figure(states["scores"])]
    return figures


def per_class(metrics: Metrics) -> list[dict[str, Any]]:
    """{"class", "precision", "recall", "f1", "examples"} of each class, label or type of entity."""
    if "entities" in metrics.states:
        scores = seqeval(metrics.states["entities"])
        return [{"type": name, **values} for name, values in scores.items() if not name.startswith("overall_")]
    if "counts" not in metrics.states:
        return []
    state, every = metrics.states["counts"], range(len(metrics.labels))
    columns = [function(state, None, labels=every) for function in (counts.precision, counts.recall, counts.f1)]
    names = ("class", "precision", "recall", "f1", "number")
    rows = zip(
        metrics.labels, *(values.tolist() for values in (*columns, state.per_class(every).references)), strict=True
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def per_class_table(metrics: Metrics, title: str = "By class") -> list[Table]:
    """The table of `per_class`, or an empty list."""
    rows = per_class(metrics)
    return [Table(title, rows, note="number: occurrences in the references")] if rows else []


def roc_figure(scores: ranking.Scores) -> Curves:
    """ROC of each class against the rest; for more than six classes, all together and the five with the least area."""
    columns, note = _chosen(scores)
    series = _curves(columns, ranking.area_under_roc, _roc_points)
    series.append(Series("chance", [0.0, 1.0], [0.0, 1.0], dashed=True, colour=5))
    note = f"In brackets the area under the curve. {note}".strip()
    return Curves(
        "roc", "ROC", series, "true positive rate", "false positive rate", y_log=False, y_range=(0, 1), note=note
    )


def pr_figure(scores: ranking.Scores) -> Curves:
    """Precision over recall for the classes that `roc_figure` shows."""
    columns, note = _chosen(scores)
    series = _curves(columns, ranking.area_under_pr, _pr_points)
    if len(columns) == 1:
        share = float(columns[0].positive.mean())
        series.append(Series("chance", [0.0, 1.0], [share, share], dashed=True, colour=5))
    note = f"In brackets the average precision. {note}".strip()
    name, title = "precision_recall", "Precision and recall"
    return Curves(name, title, series, "precision", "recall", y_log=False, y_range=(0, 1), note=note)


def calibration_figure(bins: Bins) -> Drawn:
    """The reliability diagram of the bins."""
    summary = binned(bins)
    columns = (summary["edges"], summary["count"], summary["confidence"], summary["accuracy"])
    return reliability(*columns, error=expected_calibration_error(bins))


def f1_figure(rows: list[dict[str, Any]]) -> Drawn:
    """F1 of each row of `per_class`, highest first."""
    key = next(iter(rows[0]))
    ordered = sorted(rows, key=lambda row: -row["f1"])
    numbers = {row[key]: f"of {row['number']:,}" for row in ordered}
    values = {row[key]: row["f1"] for row in ordered}
    note = f"The number after each value counts the {key} in the references."
    return bars("f1_by_class", "F1", values, notes=numbers, high=1.0, unit=f"of each {key}", note=note)


def length_figure(
    lengths: np.ndarray,
    limit: int | None = None,
    unit: str = "examples",
    title: str = "Lengths",
) -> Drawn:
    """The lengths of the examples (N,) in tokens before truncation, and the share beyond the limit."""
    cut = float(np.mean(np.asarray(lengths) > limit)) if limit is not None else 0.0
    label = f"limit {limit:,}: {100 * cut:.1f} % are truncated" if limit is not None else ""
    return histogram("lengths", title, lengths, x_label="tokens", unit=unit, limit=limit, limit_label=label)


def _curves(
    columns: Sequence[ranking.Column],
    area: Callable[[ranking.Column], float],
    points: Callable[[ranking.Column], tuple[np.ndarray, np.ndarray]],
) -> list[Series]:
    return [_steps(f"{column.name} ({area(column):.3f})", *points(column)) for column in columns]


def _roc_points(column: ranking.Column) -> tuple[np.ndarray, np.ndarray]:
    curve = ranking.roc_curve(column)
    return curve["fpr"], curve["tpr"]


def _pr_points(column: ranking.Column) -> tuple[np.ndarray, np.ndarray]:
    curve = ranking.pr_curve(column)
    return curve["recall"][::-1], curve["precision"][::-1]


def _steps(name: str, x: np.ndarray, y: np.ndarray) -> Series:
    """The line through the points, (N,) each, without points that share a cell of a grid of 500 with their
    neighbours."""
    moves = (np.diff(np.round(500 * np.stack([x, y])), axis=1) != 0).any(axis=0)
    shown = np.append(True, moves) | np.append(moves, True)
    return Series(name, x[shown].tolist(), y[shown].tolist())


def _defined(scores: ranking.Scores) -> list[ranking.Column]:
    return [column for column in scores.columns() if column.positive.any() and not column.positive.all()]


def _chosen(scores: ranking.Scores) -> tuple[list[ranking.Column], str]:
    """The columns that a chart shows, and a note on the others."""
    every = scores.columns()
    columns = _defined(scores)
    absent = f"{len(every) - len(columns)} of {len(every)} classes are left out: always or never true."
    notes = [absent] if len(columns) < len(every) else []
    if len(columns) > LINES:
        lowest = sorted(columns, key=ranking.area_under_roc)[: LINES - 1]
        notes.append(f"{len(columns)} classes: all together, and the {LINES - 1} with the least area under ROC.")
        columns = [ranking.together(columns), *lowest]
    return columns, " ".join(notes)
