"""A drawing that is rendered twice: as SVG for the page, light and dark, and as PNG for the card."""

import json
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, Literal

from hftrain.report.formats import escape, presentable

# Distinct on white and for colour-blind readers (after Okabe and Ito, 2008); page.css has them for a dark page too.
COLOURS = ("#2563c9", "#d1540c", "#0b8a68", "#a8438c", "#8a6d00", "#5b6472")
# A number is the colour of a series; names are defined in page.css, also for dark pages.
Colour = int | Literal["ink", "muted", "rule", "card"]
LIGHT = {"ink": "#16191d", "muted": "#626b77", "rule": "#dfe3e8", "card": "#ffffff"}
Anchor = Literal["start", "middle", "end"]
SIZE, SMALL = 11.0, 9.0  # font sizes
RADIUS = 2.6  # of a dot
TITLE = 30.0  # height of the title


@dataclass(frozen=True)
class Mark:
    """A rectangle, a line, a text or a dot."""

    kind: Literal["box", "line", "text", "dot"]
    points: tuple[tuple[float, float], ...]  # for a box: its corner and its size
    colour: Colour
    opacity: float = 1
    tip: str = ""
    dashed: bool = False
    text: str = ""
    anchor: Anchor = "start"
    small: bool = False
    bold: bool = False
    turn: float = 0  # degrees, clockwise
    thick: bool = False  # a line that is data, not a rule
    faint: bool = False


@dataclass
class Drawing:
    """Boxes, lines and texts at (x, y), y downwards, in a frame of `width` x `height`; 460 is a column of the page."""

    width: float
    height: float
    marks: list[Mark] = field(default_factory=list)

    def box(
        self, x: float, y: float, width: float, height: float, colour: Colour, *, opacity: float = 1, tip: str = ""
    ) -> None:
        """`tip`: lines shown on hovering."""
        self.marks.append(Mark("box", ((x, y), (width, height)), colour, opacity, tip))

    def line(
        self,
        *points: tuple[float, float],
        colour: Colour = "rule",
        dashed: bool = False,
        thick: bool = False,
        faint: bool = False,
    ) -> None:
        self.marks.append(Mark("line", points, colour, dashed=dashed, thick=thick, faint=faint))

    def dot(self, x: float, y: float, colour: Colour) -> None:
        self.marks.append(Mark("dot", ((x, y),), colour))

    def text(
        self, x: float, y: float, text: str, anchor: Anchor = "start", colour: Colour = "muted", **how: Any
    ) -> None:
        """`y` is the baseline of the letters. `how`: small, bold, turn."""
        self.marks.append(Mark("text", ((x, y),), colour, text=text, anchor=anchor, **how))

    def svg(self, label: str, chart: Mapping[str, Any] | None = None) -> str:
        """`label` describes the drawing for screen readers; `chart` has the numbers that the page's script shows under
        the pointer."""
        data = f' data-chart="{escape(json.dumps(chart, separators=(",", ":")))}"' if chart else ""
        wide = ' class="wide"' if self.width > 460 else ""
        parts = "".join(map(_svg, self.marks))
        view = f'viewBox="0 0 {self.width:g} {self.height:g}"'
        return f'<div{wide}><svg class="drawn" {view} role="img" aria-label="{escape(label)}"{data}>{parts}</svg></div>'

    def png(self, path: Path, title: str) -> None:
        """Draw to `path`: three pixels for each unit, below a title."""
        from matplotlib import rc_context

        with rc_context({"text.parse_math": False}), warnings.catch_warnings():  # a "$" in a label is a dollar
            # The picture shows boxes for scripts that the font lacks; the page uses the browser's fonts.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            self._plot(title).savefig(path)

    def _plot(self, title: str) -> Any:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.collections import PolyCollection
        from matplotlib.colors import to_rgba
        from matplotlib.figure import Figure as Canvas
        from matplotlib.lines import Line2D

        points = 72 / 66  # typographic points in a unit, at 66 units an inch
        canvas = Canvas(figsize=(self.width / 66, (self.height + TITLE) / 66), dpi=198)
        FigureCanvasAgg(canvas)
        axes = canvas.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, self.width)
        axes.set_ylim(self.height, -TITLE)
        axes.text(8, 18 - TITLE, encodable(title), color=LIGHT["ink"], fontsize=points * SIZE, fontweight="bold")
        axes.set_axis_off()
        shapes = [mark for mark in self.marks if mark.kind != "text"]
        for order, (kind, run) in enumerate(groupby(shapes, key=lambda mark: mark.kind)):
            if kind == "box":  # all at once: the thousands of boxes of a matrix would take seconds
                boxes = list(run)
                colours = [to_rgba(_light(mark.colour), mark.opacity) for mark in boxes]
                axes.add_collection(PolyCollection(list(map(_corners, boxes)), facecolors=colours, zorder=order))
                continue
            for mark in run:
                x, y = zip(*mark.points, strict=True)
                width = points * (0 if kind == "dot" else 0.9 if mark.faint else 1.8 if mark.thick else 1)
                line = Line2D(x, y, color=_light(mark.colour), linewidth=width, zorder=order)
                line.set_alpha(0.32 if mark.faint else 1)
                if kind == "dot":
                    line.set(marker="o", markersize=2 * RADIUS * points, markeredgewidth=0)
                if mark.dashed:
                    line.set_dashes((5, 4))
                axes.add_line(line)
        for mark in self.marks:
            if mark.kind == "text":
                axes.text(
                    *mark.points[0],
                    encodable(mark.text),
                    color=_light(mark.colour),
                    fontsize=points * (SMALL if mark.small else SIZE),
                    fontweight="bold" if mark.bold else "normal",
                    ha={"start": "left", "middle": "center", "end": "right"}[mark.anchor],
                    va="baseline",
                    rotation=-mark.turn,
                    rotation_mode="anchor",
                    zorder=len(shapes) + 1,
                )
        return canvas


@dataclass(frozen=True)
class Drawn:
    """A `Figure` of the page: a drawing with its title; `label` describes it in words."""

    name: str
    title: str
    drawing: Drawing
    label: str
    subtitle: str = ""
    note: str = ""

    def html(self) -> str:
        return self.drawing.svg(f"{self.title}. {self.label}")

    def png(self, path: Path) -> None:
        self.drawing.png(path, f"{self.title}: {self.subtitle}" if self.subtitle else self.title)


def text_width(text: str, size: float = SIZE) -> float:
    """The approximate width, rather too large than too small."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    capital = sum(letter.isupper() or letter in "mw%@" for letter in text)
    return size * (1.05 * wide + 0.74 * capital + 0.58 * (len(text) - wide - capital))


def elided(texts: Sequence[str], width: float) -> list[str]:
    """Each text on one line of at most `width`: long texts lose their middle; those that would then look alike lose
    their common beginning and end instead."""
    lines = [" ".join(text.split()) for text in texts]
    short = [_without_middle(line, width) for line in lines]
    for alike in {short_line for short_line in short if short.count(short_line) > 1}:
        group = [line for line, short_line in zip(lines, short, strict=True) if short_line == alike]
        begin = _alike(group)
        end = min(_alike([line[::-1] for line in group]), min(map(len, group)) - begin)
        for place, short_line in enumerate(short):
            if short_line == alike:
                core = lines[place][begin : len(lines[place]) - end]
                short[place] = _without_middle(f"…{core}{'…' if end else ''}", width)
    return short


def _alike(lines: Sequence[str]) -> int:
    """The number of letters that all lines begin with."""
    return sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*lines, strict=False)))


def _without_middle(line: str, width: float) -> str:
    kept, short = len(line), line
    while text_width(short) > width and kept > 2:
        kept -= 1
        short = f"{line[: (kept + 1) // 2]}…{line[len(line) - kept // 2 :]}"
    return short


def _light(colour: Colour) -> str:
    return COLOURS[colour] if isinstance(colour, int) else LIGHT[colour]


def _corners(box: Mark) -> list[tuple[float, float]]:
    (x, y), (width, height) = box.points
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def _svg(mark: Mark) -> str:
    classes = [f"s{mark.colour}" if isinstance(mark.colour, int) else mark.colour]
    classes += [name for name in ("dashed", "small", "bold", "thick", "faint") if getattr(mark, name)]
    tip = f' data-tip="{escape(mark.tip)}"'.replace("\n", "&#10;") if mark.tip else ""
    start = f'class="{" ".join(classes)}"{tip}'
    points: Sequence[tuple[str, str]] = [(f"{round(x, 1):g}", f"{round(y, 1):g}") for x, y in mark.points]
    (x, y) = points[0]
    if mark.kind == "box":
        width, height = points[1]
        opacity = f' fill-opacity="{mark.opacity:.2f}"' if mark.opacity < 1 else ""
        return f'<rect {start} x="{x}" y="{y}" width="{width}" height="{height}"{opacity}/>'
    if mark.kind == "dot":
        return f'<circle {start} cx="{x}" cy="{y}" r="{RADIUS}"/>'
    if mark.kind == "line":
        return f'<path {start} d="M{"L".join(f"{x} {y}" for x, y in points)}"/>'
    turn = f' transform="rotate({mark.turn:g} {x} {y})"' if mark.turn else ""
    anchor = f' text-anchor="{mark.anchor}"' if mark.anchor != "start" else ""
    return f'<text {start} x="{x}" y="{y}"{anchor}{turn}>{escape(mark.text)}</text>'


def encodable(text: str) -> str:
    """`text` without characters that a font cannot show."""
    return presentable(text).encode("utf-8", "backslashreplace").decode()
