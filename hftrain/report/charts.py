"""Charts other than lines: a confusion matrix, a histogram, bars, a reliability diagram."""

from collections.abc import Mapping, Sequence

import numpy as np

from hftrain.report.drawing import SMALL, Colour, Drawing, Drawn, elided, text_width
from hftrain.report.figures import round_ticks, tick_text
from hftrain.report.formats import format_number

RIGHT, WRONG = 0, 1  # colours
MOST = 50  # maximum classes in a matrix


def confusion_matrix(matrix: np.ndarray, labels: Sequence[str]) -> Drawn:
    """Rows are the references, columns the predictions; the share of the row colours a cell; correct and wrong cells
    have different colours.

    Args:
        matrix: (K, K) counts. If there are more than 50 classes, the 50 with the most errors are shown.
        labels: K names.

    Raises:
        ValueError: the shape is not (K, K).
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(labels), len(labels)):
        raise ValueError(f"a confusion matrix of {len(labels)} labels cannot have the shape {matrix.shape}")
    note = "For each reference (row), the share predicted as each class (column); at the end of the row, the number."
    errors = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    accuracy = f"{100 * np.trace(matrix) / max(1, matrix.sum()):.1f} % of {matrix.sum():,} correct"
    worst = _worst(matrix, labels)
    totals = matrix.sum(axis=1)
    if len(labels) > MOST:
        chosen = np.sort(np.argsort(-errors, kind="stable")[:MOST])
        note = f"The {MOST} of {len(labels)} classes with the most errors. {note}"
        matrix, totals, labels = matrix[np.ix_(chosen, chosen)], totals[chosen], [labels[i] for i in chosen]
    classes = len(labels)
    drawing = _matrix(matrix, totals, labels, width=460 if classes <= 12 else 940)
    caption = f"{note} {worst}".strip()
    return Drawn("confusion_matrix", "Confusion matrix", drawing, f"{accuracy}. {worst}", accuracy, caption)


def _matrix(matrix: np.ndarray, totals: np.ndarray, labels: Sequence[str], width: float) -> Drawing:
    classes = len(labels)
    names = elided(labels, 104 if width == 460 else 150)
    longest = max(map(text_width, names))
    left = 28 + longest
    right_margin = max(12 + max(text_width(f"{total:,}", SMALL) for total in totals), 0.72 * text_width(names[-1]))
    size = min((width - left - right_margin) / classes, max(56 if classes <= 12 else 36, min(96, 220 / classes)))
    left += (width - left - right_margin - size * classes) / 2
    level = longest <= size - 4
    turn = -45 if size > 16 else -90
    top = 36 if level else 32 + longest * (0.72 if turn == -45 else 1)
    drawing = Drawing(width, top + size * classes + 8)
    drawing.text(left, 11, "predicted", bold=True, small=True)
    drawing.text(left - longest - 14, top + size * classes, "reference", bold=True, small=True, turn=-90)
    for row in range(classes):
        y = top + row * size
        drawing.text(left - 7, y + size / 2 + 4, names[row], "end", "ink")
        drawing.text(left + classes * size + 7, y + size / 2 + 3, f"{totals[row]:,}", small=True)
        at = left + (row + 0.5) * size
        if level:
            drawing.text(at, top - 8, names[row], "middle", "ink")
        else:
            drawing.text(at + 3, top - 7, names[row], "start", "ink", turn=turn)
        for column in range(classes):
            _cell(drawing, matrix[row, column], totals[row], (left + column * size, y, size), labels, (row, column))
    return drawing


def _cell(
    drawing: Drawing,
    count: int,
    total: int,
    place: tuple[float, float, float],
    labels: Sequence[str],
    at: tuple[int, int],
) -> None:
    x, y, size = place
    row, column = at
    gap = 0.5 if size < 20 else 1
    share = count / total if total else 0.0
    if not count:
        drawing.box(x + gap, y + gap, size - 2 * gap, size - 2 * gap, "rule", opacity=0.35)
        return
    opacity = 0.12 + 0.88 * share**0.6  # so that a few errors stay visible
    tip = f"{labels[row]}\npredicted as {labels[column]}\n{count:,} of {total:,}, {100 * share:.1f} %"
    colour = RIGHT if row == column else WRONG
    drawing.box(x + gap, y + gap, size - 2 * gap, size - 2 * gap, colour, opacity=opacity, tip=tip)
    ink: Colour = "card" if opacity > 0.6 else "ink"
    percent = f"{100 * share:.0f}" if share >= 0.005 else "<1"
    if size >= 44 and text_width(f"{count:,}", SMALL) < size - 4:
        drawing.text(x + size / 2, y + size / 2 + 1, f"{percent} %", "middle", ink, bold=True)
        drawing.text(x + size / 2, y + size / 2 + 13, f"{count:,}", "middle", ink, small=True)
    elif size >= 17:
        drawing.text(x + size / 2, y + size / 2 + 3.5, percent, "middle", ink, small=size < 24)


def _worst(matrix: np.ndarray, labels: Sequence[str]) -> str:
    """A sentence on the most frequent error."""
    errors = np.array(matrix)
    np.fill_diagonal(errors, 0)
    if not errors.any():
        return ""
    row, column = divmod(int(errors.argmax()), len(errors))
    return f"Most frequent error: {labels[row]} predicted as {labels[column]} ({errors[row, column]:,} times)."


def histogram(
    name: str,
    title: str,
    values: np.ndarray,
    *,
    x_label: str,
    unit: str = "examples",
    limit: float | None = None,
    limit_label: str = "",
    whole: bool | None = None,
) -> Drawn:
    """A histogram of the values (N,). The last bar collects the few values far out.

    Args:
        limit: a line; bars beyond it have another colour. `limit_label` is beside it, or in the note if no value is
            near it.
        whole: bins are at least 1 wide and begin at whole numbers; None: if all values are whole numbers.

    Raises:
        ValueError: there are no values.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        raise ValueError(f"figure {name!r}: no values")
    note = ""
    whole = bool((values == np.floor(values)).all()) if whole is None else whole
    edges, beyond = _bins(values, limit, whole)
    counts, _ = np.histogram(np.minimum(values, edges[-1]), edges)
    # A value equal to the limit is not beyond it.
    end_of_kept = np.inf if limit is None else limit + 1 if whole else limit
    drawing = Drawing(460, 250)
    left, right, top, bottom = 52.0, 448.0, 24.0, 214.0
    high = counts.max() * 1.05

    def at_x(value: float) -> float:
        return left + (value - edges[0]) / (edges[-1] - edges[0]) * (right - left)

    for tick in round_ticks(0, high):
        if tick == int(tick):
            y = bottom - tick / high * (bottom - top)
            drawing.line((left, y), (right, y))
            drawing.text(left - 7, y + 3.5, tick_text(tick), "end")
    for low, end, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            height = max(1.0, count / high * (bottom - top))
            last = beyond and end == edges[-1]
            between = f"{format_number(low)} and more" if last else _between(low, end, whole)
            tip = f"{between} {x_label}\n{count:,} {unit}, {100 * count / len(values):.1f} %"
            colour = WRONG if low >= end_of_kept else RIGHT
            drawing.box(at_x(low) + 0.5, bottom - height, at_x(end) - at_x(low) - 1, height, colour, tip=tip)
    drawing.line((left, bottom), (right, bottom), colour="muted")
    middle = 0.5 if whole and edges[1] - edges[0] == 1 else 0  # a bar for one number has its tick in the middle
    for tick in round_ticks(edges[0], edges[-1] - middle):
        if not middle or tick == int(tick):
            drawing.text(at_x(tick + middle), bottom + 17, tick_text(tick), "middle" if tick < edges[-1] else "end")
    drawing.text(right, bottom + 32, x_label, "end")
    if edges[0] <= end_of_kept <= edges[-1]:
        x = at_x(end_of_kept)
        drawing.line((x, top - 8), (x, bottom), colour="ink", dashed=True)
        beside = x + 6 + text_width(limit_label) < right
        drawing.text(x + 6 if beside else x - 6, top - 4, limit_label, "start" if beside else "end", "ink")
    elif limit_label:
        note = f"{limit_label[:1].upper()}{limit_label[1:]}. "
    median, far, largest = (format_number(float(quantile)) for quantile in np.percentile(values, [50, 95, 100]))
    summary = f"median {median}, 95 % up to {far}, largest {largest}"
    if beyond:
        note = f"The last bar has the {beyond:,} values beyond. {note}".strip()
    return Drawn(name, title, drawing, summary, unit, f"{summary[:1].upper()}{summary[1:]}. {note}".strip())


def _bins(values: np.ndarray, limit: float | None, whole: bool) -> tuple[np.ndarray, int]:
    """Edges of about 40 bins, including the limit, and the number of values beyond the last."""
    low, high = float(values.min()), float(values.max())
    far = float(np.percentile(values, 99)) * 1.25
    end = max(far, (limit or 0) * 1.15) if high > max(far, (limit or 0) * 1.15) * 1.3 else high
    width = (end - low) / 40 or 1.0
    if whole:
        width, low, end = max(1.0, float(np.ceil(width))), np.floor(low), end + 1
    if limit is not None:
        first = limit + (1 if whole else 0)  # a value equal to the limit is not beyond it
        low = first - width * np.ceil((first - low) / width) if low < first else first
    edges = low + width * np.arange(max(1, int(np.ceil((end - low) / width))) + 1)
    return edges, int((values >= edges[-1]).sum()) if high > edges[-1] else 0


def _between(low: float, end: float, whole: bool) -> str:
    if whole and end - low == 1:
        return format_number(int(low))
    return f"{format_number(int(low))} to {format_number(int(end - 1))}" if whole else f"{low:.4g} to {end:.4g}"


def bars(
    name: str,
    title: str,
    values: Mapping[str, float],
    *,
    unit: str = "",
    notes: Mapping[str, str] | None = None,
    high: float | None = None,
    note: str = "",
) -> Drawn:
    """A bar for each name, from 0, with its value.

    Args:
        notes: words after the value ("120 examples").
        high: the value of the full width; None: the largest.

    Raises:
        ValueError: there are no values, or one is negative.
    """
    if not values or min(values.values()) < 0:
        raise ValueError(f"figure {name!r}: bars need values of at least 0, not {list(values.values())[:5]}")
    behind = {key: f"{format_number(value)}" for key, value in values.items()}
    words = notes or {}
    names = dict(zip(values, elided(list(values), 120), strict=True))
    left = 10 + max(text_width(text) for text in names.values())
    right = 446 - max(text_width(behind[key]) + text_width(words.get(key, ""), SMALL) + 8 for key in values)
    row = 26.0 if len(values) <= 12 else 19.0
    whole = high or max(values.values()) or 1
    drawing = Drawing(460, 8 + row * len(values))
    for number, (key, value) in enumerate(values.items()):
        y = 6 + number * row
        drawing.text(left - 7, y + row / 2 + 1, names[key], "end", "ink")
        drawing.box(left, y, right - left, row - 7, "rule", opacity=0.35)
        length = max(0.8, (right - left) * min(1.0, value / whole))
        tip = "\n".join(filter(None, [key, f"{behind[key]} {unit}".strip(), words.get(key)]))
        drawing.box(left, y, length, row - 7, RIGHT, tip=tip)
        drawing.text(right + 8, y + row / 2 + 1, behind[key], colour="ink")
        if key in words:
            drawing.text(right + 14 + text_width(behind[key]), y + row / 2 + 1, words[key], small=True)
    summary = ", ".join(f"{key} {behind[key]}" for key in list(values)[:12])
    return Drawn(name, title, drawing, summary, unit, note)


def reliability(
    edges: np.ndarray, count: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray, *, error: float
) -> Drawn:
    """The reliability diagram (Guo et al., 2017, fig. 1) above the number of examples in each bin.

    Args:
        edges: (B + 1,). `count`, `confidence`, `accuracy`: (B,) of each bin, NaN if it is empty.
        error: the expected calibration error.
    """
    drawing = Drawing(460, 292)
    left, right, top, bottom = 52.0, 448.0, 10.0, 192.0
    foot, rise = 256.0, 46.0

    def at_x(share: float) -> float:
        return left + share * (right - left)

    def at_y(share: float) -> float:
        return bottom - share * (bottom - top)

    for tick in (0, 0.25, 0.5, 0.75, 1):
        drawing.line((left, at_y(tick)), (right, at_y(tick)))
        drawing.text(left - 7, at_y(tick) + 3.5, f"{100 * tick:.0f} %", "end")
    for low, end, number, sure, correct_share in zip(edges[:-1], edges[1:], count, confidence, accuracy, strict=True):
        if not number:
            continue
        x, width = at_x(low) + 1, at_x(end) - at_x(low) - 2
        tip = f"confidence {100 * sure:.1f} %\nright {100 * correct_share:.1f} %\n{number:,} predictions"
        lower, upper = sorted((sure, correct_share))
        drawing.box(x, at_y(lower), width, bottom - at_y(lower), RIGHT, tip=tip)
        gap = WRONG if sure > correct_share else RIGHT
        drawing.box(x, at_y(upper), width, at_y(lower) - at_y(upper), gap, opacity=0.45, tip=tip)
        height = max(1.0, number / count.max() * rise)
        drawing.box(x, foot - height, width, height, "muted", opacity=0.7, tip=tip)
    drawing.line((left, bottom), (right, top), colour="ink", dashed=True)
    drawing.line((left, bottom), (right, bottom), colour="muted")
    drawing.line((left, foot), (right, foot), colour="muted")
    drawing.text(left - 7, foot - rise + 7, f"{int(count.max()):,}", "end", small=True)
    drawing.text(left - 7, foot, "0", "end", small=True)
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        drawing.text(at_x(tick), foot + 15, f"{100 * tick:.0f} %", "middle" if tick < 1 else "end")
    drawing.text(right, foot + 30, "confidence", "end")
    sure, true = (np.nansum(values * count) / max(1, count.sum()) for values in (confidence, accuracy))
    lean = "overconfident" if sure > true + 0.005 else "underconfident" if sure < true - 0.005 else "well calibrated"
    summary = f"Overall {lean}: confidence {100 * sure:.1f} %, correct {100 * true:.1f} %."
    how = "Blue: share of correct predictions, pale above the confidence. Orange: confident but wrong."
    note = f"{how} Below: number of predictions. {summary}"
    return Drawn("calibration", "Calibration", drawing, summary, f"expected error {100 * error:.1f} %", note)
