"""Charts of a run's `metrics.jsonl`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from hftrain.metrics.table import TABLE, Metric
from hftrain.report.figures import Curves, Series, describe_series

TITLES = {
    "learning_rate": ("Learning rate", ""),
    "grad_norm": ("Gradient norm", "L2, before clipping"),
    "tokens_per_second": ("Throughput", "{} per second"),
}


def curves_of(rows: Iterable[Mapping[str, Any]], counted: str = "tokens") -> list[Curves]:
    """One chart for each number in the rows, `eval_<name>` together with `<name>`: loss, metrics, then the others.
    `counted`: the unit of tokens_per_second."""
    points = _points(rows)

    def place(name: str) -> int:
        return 0 if name == "loss" else 1 if f"eval_{name}" in points else 2

    names = sorted(dict.fromkeys(key.removeprefix("eval_") for key in points), key=place)
    return [chart for name in names if (chart := _chart(name, points, counted))]


def overlaid(
    runs: Mapping[str, Iterable[Mapping[str, Any]]],
    *,
    per_step: Mapping[str, float] | None = None,
    x_label: str = "step",
    counted: str = "tokens",
) -> list[Curves]:
    """One chart for each number in the rows of several runs, a line for each run: loss, evaluations, then the others.

    Args:
        runs: name -> its rows.
        per_step: name -> width of a step on the x axis, if it is not 1.
        counted: the unit of tokens_per_second.
    """
    points = {name: _points(rows) for name, rows in runs.items()}

    def place(key: str) -> int:
        return 0 if key == "loss" else 1 if key == "eval_loss" else 2 if key.startswith("eval_") else 3

    charts = []
    for key in sorted(dict.fromkeys(key for own in points.values() for key in own), key=place):
        series: list[Series] = []
        notes = []
        for colour, (name, own) in enumerate(points.items()):
            steps = sorted(own.get(key, {}))
            values = [own[key][step] for step in steps]
            if values.count(None) == len(values):
                continue
            x = [round(step * (per_step or {}).get(name, 1)) for step in steps]
            smooth = not key.startswith("eval_") and key != "learning_rate"
            series += _series(name, x, values, colour, len(steps) // 100 if smooth else 0)
            notes.append(f"{name}: {describe_series(x, values)}")
        if series:
            title, unit = _title(key.removeprefix("eval_"), counted)
            unit = ", ".join(filter(None, ["evaluation" if key.startswith("eval_") else "", unit]))
            log = False if key == "learning_rate" else None
            charts.append(Curves(_stem(key), title, series, unit, x_label, y_log=log, note="; ".join(notes)))
    return charts


def _points(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float | None]]:
    """Name -> step -> number. By step, so that a line written again after a resume replaces the older one."""
    points: dict[str, dict[int, float | None]] = {}
    for row in rows:
        for key, value in row.items():
            is_number = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
            if is_number and key not in ("step", "epoch", "seconds"):
                points.setdefault(key, {})[row["step"]] = value
    return points


def _title(name: str, counted: str) -> tuple[str, str]:
    metric, plain = TABLE.get(name, Metric(None)), name[:1].upper() + name[1:].replace("_", " ")
    title, unit = TITLES.get(name, (metric.title or plain, "" if metric.unit == "share" else metric.unit))
    return title, unit.format(counted)


def _stem(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _chart(name: str, points: Mapping[str, Mapping[int, float | None]], counted: str) -> Curves | None:
    summaries: dict[str, str] = {}
    series: list[Series] = []
    missing = 0
    for colour, (label, key) in enumerate((("training", name), ("evaluation", f"eval_{name}"))):
        steps = sorted(points.get(key, {}))
        values = [points[key][step] for step in steps]
        missing += values.count(None)
        if values.count(None) < len(values):
            summaries[label] = describe_series(steps, values)
            # Only values measured at each step are noisy: the schedule is exact and evaluations are rare.
            half_window = 0 if label == "evaluation" or name == "learning_rate" else len(steps) // 100
            series += _series(label, steps, values, colour, half_window)
    if not series:
        return None
    note = "; ".join(f"{label}: {words}" if len(summaries) > 1 else words for label, words in summaries.items())
    if missing:
        note += f"; {missing} value{'s' if missing > 1 else ''} not finite, left out"
    title, unit = _title(name, counted)
    # A logarithmic axis would distort the shape of the schedule.
    log = False if name == "learning_rate" else None
    return Curves(_stem(name), title, series, unit, y_log=log, note=note)


def _series(label: str, x: list[int], y: list[float | None], colour: int, half: int) -> list[Series]:
    """The values; many values are pale behind their running median, which ignores single spikes."""
    if not half:
        return [Series(label, x, y, colour=colour)]
    places = range(0, len(x), max(1, len(x) // 400))
    medians = [_median(y[max(0, place - half) : place + half + 1]) for place in places]
    smooth = Series(f"{label}, median of {2 * half + 1}", [x[place] for place in places], medians, colour=colour)
    return [Series(label, x, y, faint=True, colour=colour), smooth]


def _median(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None]
    return median(finite) if finite else None
