"""Columns of the data that nothing reads."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

logger = logging.getLogger(__name__)


class Unread(Counter[str]):
    """Columns that nothing reads though rows have something in them, and in how many rows."""

    def count(self, row: Mapping[str, Any], read: Iterable[str]) -> None:
        """Takes in a row, of which the columns `read` are read."""
        self.update(name for name in row.keys() - set(read) if row[name] not in (None, "", [], {}))

    def warn(self, advice: str = "") -> None:
        if self:
            named = ", ".join(f"{name} ({rows:,} rows)" for name, rows in sorted(self.items())[:20])
            logger.warning("columns that nothing reads: %s%s", named, f". {advice}" if advice else "")
