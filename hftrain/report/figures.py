"""Charts, each drawn twice from the same numbers: as SVG for the page and as PNG for the model card.

The page takes anything that is a `Figure`. `Curves` are lines over x; `charts` has others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from hftrain.report.drawing import COLOURS, Drawing
from hftrain.report.formats import escape, format_number

POINTS = 2000  # maximum points of a line; more are invisible and would make the page large
LEFT, RIGHT, TOP, BOTTOM = 52, 448, 10, 214  # of the plot in the drawing
FEW = 40  # lines with at most this many points get dots


class Figure(Protocol):
    """The interface of a chart: `name` is its PNG's file stem, `subtitle` follows the title, `note` is below."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def subtitle(self) -> str: ...
    @property
    def note(self) -> str: ...
    def html(self) -> str: ...
    def png(self, path: Path) -> None: ...


@dataclass(frozen=True)
class Series:
    """One line: y over ascending x; None is a gap.

    Args:
        faint: thin and pale, in the colour of the next series, for its noise.
        dashed: for a reference, such as chance.
        colour: index into `COLOURS`; None takes the next one.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    faint: bool = False
    dashed: bool = False
    colour: int | None = None


@dataclass(frozen=True)
class Curves:
    """Lines over one x axis.

    Args:
        name: file stem of the PNG.
        title: the quantity, in `unit` ("tokens per second").
        x_label: label of the x axis, with its unit.
        y_log: None: logarithmic if all values are positive and the largest is over 20 times the median, so that a
            linear axis would squeeze half of the points into its lowest twentieth.
        y_range: fixed ends of the y axis, (0, 1) for a rate.
        note: a caption.

    Raises:
        ValueError: x and y of a series differ in length; values on a logarithmic axis are not positive.
    """

    name: str
    title: str
    series: Sequence[Series]
    unit: str = ""
    x_label: str = "step"
    y_log: bool | None = None
    y_range: tuple[float, float] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        for series in self.series:
            if len(series.x) != len(series.y):
                raise ValueError(
                    f"figure {self.name!r}, series {series.name!r}: {len(series.x)} x but {len(series.y)} y"
                )
        if self.y_log and any(value <= 0 for value in self._values()):
            raise ValueError(f"figure {self.name!r}: a logarithmic axis cannot show values <= 0")

    @property
    def logarithmic(self) -> bool:
        values = sorted(self._values())
        if self.y_log is not None or not values or values[0] <= 0:
            return bool(self.y_log)
        return values[-1] > 20 * values[len(values) // 2]

    @property
    def subtitle(self) -> str:
        return ", ".join(filter(None, [self.unit, "log scale" if self.logarithmic else ""]))

    def html(self) -> str:
        """Legend, and an `<svg>` that is complete without scripts; `data-chart` has the numbers for hovering."""
        keys = [
            f'<li class="s{colour}{" dashed" * series.dashed}">{escape(series.name)}</li>'
            for colour, series in self._coloured()
            if not series.faint
        ]
        legend = f'<ul class="legend">{"".join(keys)}</ul>' if len(keys) > 1 else ""
        values = "; ".join(
            f"{series.name}: {describe_series(series.x, series.y)}" for series in self.series if not series.faint
        )
        return legend + self._drawing().svg(f"{self.title} over {self.x_label}. {values}", self._chart())

    def png(self, path: Path) -> None:
        """Draw to `path`: three pixels for each unit, with a title and, of several series, a legend."""
        drawing = self._drawing()
        named = [(colour, series) for colour, series in self._coloured() if not series.faint]
        for colour, series in named if len(named) > 1 else ():
            y = drawing.height + 4
            drawing.line((LEFT, y), (LEFT + 18, y), colour=colour, dashed=series.dashed, thick=True)
            drawing.text(LEFT + 25, y + 3.5, series.name)
            drawing.height += 16
        drawing.png(path, f"{self.title}: {self.subtitle}" if self.subtitle else self.title)

    def _ends(self) -> tuple[tuple[float, float], tuple[float, float], list[float]]:
        """Both ends of x, both ends of y, and the ticks of y."""
        low, high, ticks = _y_axis(self._values(), self.logarithmic, self.y_range)
        return _ends([value for series in self.series for value in series.x], pad=0), (low, high), ticks

    def _drawing(self) -> Drawing:
        scale = math.log10 if self.logarithmic else float
        (x_low, x_high), (y_low, y_high), y_ticks = self._ends()

        def at_x(value: float) -> float:
            return round(LEFT + (value - x_low) / (x_high - x_low) * (RIGHT - LEFT), 1)

        def at_y(value: float) -> float:
            share = (scale(value) - scale(y_low)) / (scale(y_high) - scale(y_low))
            return round(BOTTOM - share * (BOTTOM - TOP), 1)

        drawing = Drawing(460, 250)
        for tick in y_ticks:
            drawing.line((LEFT, at_y(tick)), (RIGHT, at_y(tick)))
            drawing.text(LEFT - 7, at_y(tick) + 3.5, tick_text(tick), "end")
        for tick in round_ticks(x_low, x_high):
            place = at_x(tick)
            drawing.line((place, BOTTOM), (place, BOTTOM + 4), colour="muted")
            drawing.text(place, BOTTOM + 17, tick_text(tick), "end" if place > RIGHT - 12 else "middle")
        drawing.line((LEFT, BOTTOM), (RIGHT, BOTTOM), colour="muted")
        drawing.text(RIGHT, BOTTOM + 32, self.x_label, "end")
        for colour, series in self._coloured():
            x, y = thin(series.x, series.y)
            for run in _unbroken(x, y):
                points = [(at_x(one), at_y(other)) for one, other in run]
                if len(points) > 1:
                    drawing.line(*points, colour=colour, dashed=series.dashed, faint=series.faint, thick=True)
                # A point without neighbours has no line, so it needs its dot.
                if not series.dashed and (len(points) == 1 or len(x) <= FEW):
                    for point in points:
                        drawing.dot(*point, colour)
        return drawing

    def _chart(self) -> dict[str, Any]:
        """The numbers, for hovering."""
        x_ends, y_ends, _ = self._ends()
        lines = []
        for colour, series in self._coloured():
            x, y = thin(series.x, series.y)
            short = [None if value is None else float(f"{value:.5g}") for value in y]
            lines.append({"name": series.name, "colour": colour, "x": x, "y": short})
        ends = {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM, "x": list(x_ends), "y": list(y_ends)}
        return {**ends, "log": self.logarithmic, "xLabel": self.x_label, "series": lines}

    def _values(self) -> list[float]:
        return [value for series in self.series for value in series.y if value is not None]

    def _coloured(self) -> list[tuple[int, Series]]:
        following, coloured = 0, []
        for series in self.series:
            coloured.append(((following if series.colour is None else series.colour) % len(COLOURS), series))
            following += not series.faint
        return coloured


def thin(x: Sequence[float], y: Sequence[float | None]) -> tuple[list[float], list[float | None]]:
    """At most `POINTS` points with the same look: both ends, and the lowest, the highest and a gap of each stretch."""
    if len(x) <= POINTS:
        return list(x), list(y)
    kept = {0, len(x) - 1}
    stretches = (POINTS - 2) // 3
    for stretch in range(stretches):
        inside = range(stretch * len(x) // stretches, (stretch + 1) * len(x) // stretches)
        finite = [(value, index) for index in inside if (value := y[index]) is not None]
        if finite:
            kept |= {min(finite)[1], max(finite)[1]}
        if len(finite) < len(inside):
            kept.add(next(index for index in inside if y[index] is None))
    return [x[index] for index in sorted(kept)], [y[index] for index in sorted(kept)]


def describe_series(x: Sequence[float], y: Sequence[float | None]) -> str:
    """lowest 1.75 at 2,750, highest 6.17 at 250, last 1.85."""
    points = [(value, at) for at, value in zip(x, y, strict=True) if value is not None]
    if len(points) < 2:
        return format_number(points[0][0]) if points else "no finite value"
    low, low_at, high, high_at, last = map(format_number, (*min(points), *max(points), points[-1][0]))
    return f"lowest {low} at {low_at}, highest {high} at {high_at}, last {last}"


def _unbroken(x: Sequence[float], y: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    runs = groupby(zip(x, y, strict=True), key=lambda point: point[1] is None)
    return [[(x, y) for x, y in run if y is not None] for gap, run in runs if not gap]


def _ends(values: Sequence[float], pad: float) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        return low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    return low - pad * (high - low), high + pad * (high - low)


def _y_axis(values: Sequence[float], log: bool, fixed: tuple[float, float] | None) -> tuple[float, float, list[float]]:
    """Lower end, upper end and ticks."""
    if log:
        low, high = fixed or tuple(10**end for end in _ends([math.log10(value) for value in values], pad=0.05))
        decades = math.log10(high / low)
        digits = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 4 else (1,)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, max(1, int(decades / 6)))
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        return low, high, [tick for tick in ticks if low <= tick <= high]
    low, high = fixed or _ends(values, pad=0.05)
    if not fixed and values and 0 <= min(values) < 0.5 * max(values):
        low = 0.0  # an axis that nearly reaches zero should include it
    if not fixed and values:  # a share has no room above 1, a percentage none above 100
        high = next((most for most in (1.0, 100.0) if max(values) <= most < high), high)
        low = max(low, 0.0) if min(values) >= 0 else low
    return low, high, round_ticks(low, high)


def round_ticks(low: float, high: float) -> list[float]:
    """About six round numbers within [low, high]: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    wanted = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= wanted * 0.999)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    value = float(f"{value:.6g}")
    for size, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= size:
            return f"{value / unit:g}{letter}"
    return format_number(int(value) if value == int(value) else value)
