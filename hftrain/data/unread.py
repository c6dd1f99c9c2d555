"""Columns of the data that are not read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

logger = logging.getLogger(__name__)


class Unread(Counter[str]):
    """Non-empty columns that are not read, with the number of rows that have them."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []  # the files that have them, if known

    def count(self, row: Mapping[str, Any], read: Iterable[str], file: str = "") -> None:
        """Counts the columns of a row except those in `read`."""
        self.take_in({name: 1 for name in row.keys() - set(read) if row[name] not in (None, "", [], {})}, file)

    def take_in(self, rows: Mapping[str, int], file: str = "") -> None:
        """Adds columns that are not read: name -> number of rows of the file that have it."""
        self.update(rows)
        if rows and file and file not in self.files[-1:]:
            self.files.append(file)

    def warn(self, advice: str = "") -> None:
        if self:
            named = ", ".join(f"{name} ({rows:,} rows)" for name, rows in sorted(self.items())[:20])
            more = len(set(self.files)) - 1
            where = f" in {self.files[0]}" if self.files else ""
            where += f" and {more} other file{'s' if more > 1 else ''}" if more > 0 else ""
            logger.warning("columns that are not read: %s%s%s", named, where, f". {advice}" if advice else "")
