"""Numbers, durations, sizes and settings as text for people."""

import html
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from hftrain.terminal import visible


def format_number(value: object) -> str:
    """Four significant digits: 95.1234 -> 95.12, 0.00012345 -> 1.234e-4; whole numbers keep all: 12345 -> 12,345."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e7:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    decimals = 3 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_duration(seconds: float) -> str:
    """42 s, 3 min 20 s, 2 h 05 min, 3 d 04 h."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    if total < 86400:
        return f"{total // 3600} h {total % 3600 // 60:02d} min"
    return f"{total // 86400} d {total % 86400 // 3600:02d} h"


def format_bytes(count: float) -> str:
    """Decimal units, as disks and the Hub count them: 812 MB, 2.1 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def by_split(data: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of a table with a column per split, and the values that belong to no split.

    {"train": {"examples": 9}, "vocabulary": 80} -> [{"": "examples", "train": 9}], {"vocabulary": 80}.
    """
    splits = {name: facts for name, facts in data.items() if isinstance(facts, Mapping)}
    names = dict.fromkeys(name for facts in splits.values() for name in facts)
    rows = [{"": name} | {split: facts.get(name, "") for split, facts in splits.items()} for name in names]
    return rows, {name: value for name, value in data.items() if name not in splits}


def format_value(value: object) -> str:
    """A number by `format_number`, a list of numbers with commas, everything else as text."""
    return ", ".join(map(format_number, value)) or "none" if isinstance(value, (list, tuple)) else format_number(value)


def chosen_rows(chosen: Mapping[str, tuple[Any, str]]) -> list[dict[str, str]]:
    """Rows of a table of settings: name -> (value, reason)."""
    return [
        {"setting": name, "value": format_setting(value), "reason": reason} for name, (value, reason) in chosen.items()
    ]


def format_setting(value: object) -> str:
    """A setting exactly as one would type it, without user names: the working folder is ".", a home "~"."""
    return without_home(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def without_home(text: str) -> str:
    """`text` without folders that contain a user name: the working folder is ".", a home folder "~"."""
    if "/" not in text and "\\" not in text:
        return text
    here, home = {os.getcwd(), os.environ.get("PWD", "")}, {os.path.expanduser("~")}
    folders = [(re.escape(folder), ".") for folder in here | set(map(os.path.realpath, here))]
    folders += [(re.escape(folder), "~") for folder in home | set(map(os.path.realpath, home))]
    folders += [(r"(?:[A-Za-z]:)?(?:/|\\+)(?:home|Users)(?:/|\\+)[^/\\\s\"'<>,;:)]+", "~")]
    for folder, short in folders:
        if folder not in ("", "/"):
            text = re.sub(rf"(?<![\w.~/-]){folder}(?![\w.-])", short, text)
    return text


def presentable(value: object) -> str:
    """Text for a public page: control characters are spelt out, and no folder contains a user name."""
    return visible(without_home(str(value)))


def escape(value: object) -> str:
    """`presentable`, as HTML."""
    return html.escape(presentable(value))
