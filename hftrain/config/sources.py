"""The name of one data set among several: a file, followed by a weight or a limit."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import NamedTuple

MARKS = "@ is followed by a weight above 0 (@2.0: each row is drawn twice), # by a number of rows from 1 on (#500)"
MARKED = re.compile(r"(?P<name>.+?)(?P<marks>(?:[@#][-+0-9.eE]+){1,2})")


class Source(NamedTuple):
    """One of the data sets of a setting; `written` is its text in the setting.

    weight: how often each training row is used; limit: the number of rows to read, chosen by a hash; None: all.
    """

    written: str
    name: str
    weight: float = 1.0
    limit: int | None = None


def read_source(written: str) -> Source:
    """`mails.jsonl@2.0` (weight), `mails.jsonl#500` (limit), both in any order, or a name alone.

    A file, folder or pattern that has the whole text as its name is meant as it stands.

    Raises:
        ValueError: a weight or a limit that is not above 0, or is given twice.
    """
    path = Path(written).expanduser()
    match = MARKED.fullmatch(written)
    if match is None or path.exists() or (glob.has_magic(written) and glob.glob(str(path))):
        return Source(written, written)
    marks = re.findall("([@#])([^@#]+)", match["marks"])
    named = dict(marks)
    if len(named) < len(marks):
        raise ValueError(f"{written}: one weight (@2) and one limit (#500) at most")
    weight, limit = 1.0, None
    try:
        weight = float(named.get("@", 1))
        limit = int(named["#"]) if "#" in named else None
    except ValueError:
        weight = -1.0
    if not 0 < weight < 1e6 or (limit is not None and limit < 1):
        raise ValueError(f"{written}: {MARKS}")
    return Source(written, match["name"], weight, limit)


def marked_file(written: str) -> str | None:
    """The existing file that an unreadable weight or limit follows: `mails.jsonl@twice` -> mails.jsonl."""
    names = [written[: mark.start()] for mark in re.finditer("[@#]", written)]
    return next((name for name in names if name and Path(name).expanduser().exists()), None)
