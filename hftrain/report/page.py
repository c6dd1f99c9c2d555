"""`report.html`: everything about a run on one page without external files."""

import base64
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from hftrain import disk
from hftrain.config.nested import flatten
from hftrain.report.curves import curves_of
from hftrain.report.figures import Figure
from hftrain.report.formats import by_split, chosen_rows, escape, format_number, format_setting, format_value


@dataclass(frozen=True)
class Picture:
    """A cell that is a small picture: the bytes of a PNG or JPEG file."""

    content: bytes

    def html(self) -> str:
        kind = "png" if self.content.startswith(b"\x89PNG") else "jpeg"
        return f'<img src="data:image/{kind};base64,{base64.b64encode(self.content).decode()}" alt="" loading="lazy">'


@dataclass(frozen=True)
class Sound:
    """A cell that is a player: the bytes of a wav file."""

    content: bytes

    def html(self) -> str:
        data = base64.b64encode(self.content).decode()
        return f'<audio controls preload="metadata" src="data:audio/wav;base64,{data}"></audio>'


@dataclass(frozen=True)
class Table:
    """Rows under a title, a column for each key in the order they appear. Rows after `visible` are folded."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    note: str = ""
    visible: int = 12

    def columns(self) -> list[str]:
        return list(dict.fromkeys(key for row in self.rows for key in row))

    def html(self) -> str:
        columns = self.columns()
        numeric = {name for name in columns if all(isinstance(row.get(name, 0), (int, float)) for row in self.rows)}
        head = "".join(f"<th{' class=number' * (name in numeric)}>{escape(name)}</th>" for name in columns)

        # Sentences side by side are unreadable on a phone: page.css stacks such cells there.
        longest = max((len(value) for row in self.rows for value in row.values() if isinstance(value, str)), default=0)
        kind = "prose" if longest > (60 if numeric else 30) else "facts"

        def cell(name: str, value: object) -> str:
            # dir=auto: Arabic and Hebrew samples run from right to left.
            layout = "class=number" if name in numeric else "dir=auto"
            content = value.html() if isinstance(value, Picture | Sound) else escape(format_number(value))
            return f'<td {layout} data-label="{escape(name)}">{content}</td>'

        def body(rows: Sequence[Mapping[str, Any]]) -> str:
            lines = "".join(f"<tr>{''.join(cell(name, row.get(name, '')) for name in columns)}</tr>" for row in rows)
            table = f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody>"
            return f'<div class="scroll"><table class="{kind}">{table}</table></div>'

        shown, folded = self.rows[: self.visible], self.rows[self.visible :]
        more = f"<details><summary>{len(folded):,} more</summary>{body(folded)}</details>" if folded else ""
        note = f"<p class=note>{escape(self.note)}</p>" if self.note else ""
        return body(shown) + more + note


def write_report(
    output_dir: str | Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    changed: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]] = (),
    data: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    figures: Sequence[Figure] = (),
    tables: Sequence[Table] = (),
    lead: str = "",
    about: Sequence[str] = (),
    beside: Mapping[str, str] | None = None,
    remarks: Sequence[str] = (),
    chosen: Mapping[str, tuple[Any, str]] | None = None,
    counted: str = "tokens",
) -> Path:
    """Write `report.html` and `figures/<name>.png` in `output_dir`.

    Args:
        summary: the tiles on top, most important first: name -> number, or text (for a number with its unit).
        config: every setting, resolved; may be nested. `changed`: those that differ from the default. `chosen`: those
            that follow from the data and the model, with the reason.
        history: `History.rows()`; every number in it becomes a curve.
        samples: rows of a table, such as source, hypothesis, reference.
        data: name -> value, or split -> {name -> value}, which becomes a table with a column per split.
        figures: charts of the results, before the curves. `tables`: further tables, after the samples.
        lead: one sentence below the title: which model was trained on which data.
        about: facts about the model, in a line below that, with today's date.
        beside: names in `summary` -> a few words below the number. `remarks`: sentences below the tiles.
        counted: the unit of tokens_per_second in the history.

    Raises:
        ValueError: two figures have the same name.
    """
    output_dir = Path(output_dir)
    curves: list[Figure] = [*curves_of(history, counted)]
    names = [figure.name for figure in [*curves, *figures]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"two figures are named {', '.join(twice)}: each name is a file in {output_dir / 'figures'}; rename one"
        )
    (output_dir / "figures").mkdir(parents=True, exist_ok=True)
    for figure in [*curves, *figures]:
        figure.png(output_dir / "figures" / f"{figure.name}.png")

    sections: list[tuple[str, str | Table | Sequence[Figure]]] = [
        ("Figures", figures),
        ("Curves", curves),
        ("Samples", Table("Samples", samples)),
        *((table.title, table) for table in tables),
        ("Configuration", _configuration(config, changed, chosen or {})),
        ("Data", _data(data or {})),
        ("Environment", _pairs(environment or {})),
    ]
    notes = {
        name: f"<dd class=note>{escape(words).replace(' %', '&nbsp;%')}</dd>" for name, words in (beside or {}).items()
    }
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{_tile(value)}</dd>{notes.get(name, '')}</div>"
        for name, value in summary.items()
    )
    warned = "".join(f"<li>{escape(remark)}</li>" for remark in remarks)
    top = f'<dl class="tiles">{tiles}</dl>' + (f'\n<ul class="remarks">{warned}</ul>' if warned else "")
    facts = [*about, time.strftime("%Y-%m-%d", time.gmtime())]
    return write_page(output_dir / "report.html", title=title, lead=lead, facts=facts, top=top, sections=sections)


def write_page(
    path: Path,
    *,
    title: str,
    lead: str,
    facts: Sequence[str],
    top: str,
    sections: Sequence[tuple[str, str | Table | Sequence[Figure]]],
) -> Path:
    """Write a page without external files; a section without content is left out.

    Args:
        lead: one sentence below the title. `facts`: a line below that.
        top: HTML before the sections.
        sections: (heading, HTML or a table or figures).
    """

    def html(content: str | Table | Sequence[Figure]) -> str:
        if isinstance(content, Table):
            return content.html() if content.rows else ""
        return content if isinstance(content, str) else _grid(content)

    shown = [(name, html(content)) for name, content in sections]
    body = "".join(f"<section><h2>{escape(name)}</h2>{content}</section>" for name, content in shown if content)
    style, script = (
        files("hftrain.report").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    # The page may run only this script and fetch nothing: a sample is harmless even if escaping fails.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; script-src 'sha256-{digest}'"
    )
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>{f"<p>{escape(lead)}</p>" if lead else ""}<p>{escape(" · ".join(facts))}</p></header>
<main>
{top}
{body}
</main>
<footer>Written by hftrain on {time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}.</footer>
<script>{script}</script>
</body>
</html>
"""
    disk.write(path, page)
    return path


def _tile(value: object) -> str:
    """A number; its interval in brackets is smaller."""
    number, bracket, interval = format_number(value).partition(" (")
    return escape(number) + (f" <small>{escape(bracket.strip() + interval)}</small>" if bracket else "")


def _grid(figures: Sequence[Figure]) -> str:
    return f'<div class="figures">{"".join(map(_figure, figures))}</div>' if figures else ""


def _figure(figure: Figure) -> str:
    chart = f'<div class="chart">{figure.html()}</div>'
    heading = f"<h3>{escape(figure.title)} <small>{escape(figure.subtitle)}</small></h3>"
    return f"<figure>{heading}{chart}<figcaption>{escape(figure.note)}</figcaption></figure>"


def _pairs(values: Mapping[str, Any], show: Callable[[Any], str] = format_value) -> str:
    lines = [
        f"<tr><th>{escape(name)}</th><td>{escape(show(value))}</td></tr>" for name, value in flatten(values).items()
    ]
    return f'<div class="scroll"><table class="pairs"><tbody>{"".join(lines)}</tbody></table></div>' if lines else ""


def _configuration(config: Mapping[str, Any], changed: Mapping[str, Any], chosen: Mapping[str, tuple[Any, str]]) -> str:
    first = flatten(changed)
    defaults = {name: value for name, value in flatten(config).items() if name not in first and name not in chosen}
    table = _pairs(first, format_setting) if first else "<p class=note>Every setting is at its default.</p>"
    if chosen:
        note = "Chosen for the data and the model; a setting of yours is never changed."
        table += Table("Chosen", chosen_rows(chosen), note=note).html()
    if not defaults:
        return table if first or chosen else ""
    summary = f"<summary>{len(defaults)} settings at their defaults</summary>"
    return f"{table}<details>{summary}{_pairs(defaults, format_setting)}</details>"


def _data(data: Mapping[str, Any]) -> str:
    rows, unsplit = by_split(data)
    return (Table("Data", rows, visible=len(rows)).html() if rows else "") + _pairs(unsplit)
