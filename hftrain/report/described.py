"""What the report says of the rows of a split: how many there are, which were left out, which leak, what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hftrain.data.rows import Rows
from hftrain.data.several import source_counts


def share(count: int, of: int) -> str:
    """A count with its percentage: "12 (3.4 %)"; "0" alone."""
    return f"{count:,} ({100 * count / of:.1f} %)" if count else "0"


def describe_split(
    rows: Rows, details: Mapping[str, Any], *, unit: str = "rows", inputs: str = "texts", refused: int = 0
) -> dict[str, Any]:
    """A column of the table of the data.

    Args:
        details: what the task adds, name -> value.
        unit: what a row is, in the plural.
        inputs: what of it is compared with the training rows, in the plural.
        refused: rows left out after they were read.
    """
    left_out = len(rows.bad) + refused
    return {
        unit: len(rows),
        **source_counts(rows),
        "unusable rows left out": share(left_out, left_out + len(rows)),
        f"{unit} that stand in train": "" if rows.leaks is None else share(rows.leaks.rows, len(rows)),
        f"{inputs} that stand in train": "" if rows.leaks is None else share(rows.leaks.inputs, len(rows)),
        **details,
        "fingerprint": rows.fingerprint[:16],
    }
