"""The table of a split in the report: how many rows it has, how many were left out or leak, and details."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hftrain.data.rows import Rows
from hftrain.data.several import source_counts


def share(count: int, of: int) -> str:
    """A count with its percentage: "12 (3.4 %)"; for 0 only "0"."""
    return f"{count:,} ({100 * count / of:.1f} %)" if count else "0"


def evenly(items: int, count: int) -> list[int]:
    """Up to `count` indices of so many items, evenly spread from the first to the last."""
    return np.linspace(0, items - 1, min(count, items)).astype(int).tolist()


def describe_split(
    rows: Rows, details: Mapping[str, Any], *, unit: str = "rows", inputs: str = "texts", refused: int = 0
) -> dict[str, Any]:
    """A column of the table of the data.

    Args:
        details: name -> value that the task adds.
        unit: the name of a row, in the plural.
        inputs: the name of the part that is compared with the training rows, in the plural.
        refused: number of rows left out after reading.
    """
    left_out = len(rows.bad) + refused
    return {
        unit: len(rows),
        **source_counts(rows),
        "unusable rows left out": share(left_out, left_out + len(rows)),
        f"{unit} that are also in train": "" if rows.leaks is None else share(rows.leaks.rows, len(rows)),
        f"{inputs} that are also in train": "" if rows.leaks is None else share(rows.leaks.inputs, len(rows)),
        **details,
        "fingerprint": rows.fingerprint[:16],
    }
