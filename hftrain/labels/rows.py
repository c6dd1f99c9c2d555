"""Rows of inputs of any kind with their labels."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.data.splits import load_splits
from hftrain.data.unread import Unread
from hftrain.labels.classes import LABEL_TYPE, read_label, read_vectors
from hftrain.labels.config import LabelConfig

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)


def load_labelled(
    config: LabelConfig,
    seed: int,
    *,
    columns: Mapping[str, str],
    inputs: pa.Schema,
    read: Callable[[list[Any], list[str]], list[Any]],
    settings: str,
    same: Sequence[str] = (),
    **reading: Any,
) -> "dict[str, Rows]":
    """Rows of each split with the columns of `inputs` and "label", by a `DataConfig` and `LabelConfig`.

    Labels are class names (whole numbers as their digits), lists of them, or numbers.

    Args:
        columns: our name -> the column in the data, as in `load_splits`.
        inputs: schema of the rows without the label.
        read: (values, their names for messages) of `columns` -> values of `inputs`. Raises: Fault.
        settings: the settings that name the columns, for the log.
        same: columns of `inputs` that decide whether two inputs are the same; empty: `columns`.
        reading: further arguments of `load_rows`.

    Raises:
        ValueError: rows cannot be used; the message has their lines.
    """
    labels = {f"label {column}": column for column in config.label_column}
    cuts: set[str] = set()
    trimmed: Counter[str] = Counter()
    unread = Unread()

    def read_row(values: list[Any], names: list[str]) -> list[Any]:
        """Input and label of a row. Raises: Fault."""
        label = read_label(values[len(columns) :], names[len(columns) :], config, cuts)
        for value in values[len(columns) :]:
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str) and name != name.strip():
                    trimmed[name] += 1
        return [*read(values[: len(columns)], names[: len(columns)]), label]

    rows = load_splits(
        config,
        columns={**columns, **(labels if len(labels) > 1 else {"label": config.label_column[0]})},
        compare=[*(same or columns), "label"],
        read=read_row,
        schema=inputs.append(pa.field("label", LABEL_TYPE[config.problem_type])),
        seed=seed,
        unread=unread,
        stratify=None if config.problem_type == "regression" else "label",
        score="an accuracy" if config.problem_type == "single_label_classification" else None,
        **reading,
    )
    unread.warn(f"{settings} and label_column choose the columns")
    if trimmed:
        name = min(trimmed)
        logger.warning(
            "%d labels have blanks around them, which are removed: %r is read as %r",
            *(trimmed.total(), name, name.strip()),
        )
    if signs := cuts - {","}:
        logger.warning("labels are split at %s; if it is part of a name, write lists", " and at ".join(sorted(signs)))
    return read_vectors(rows, config) if config.problem_type == "multi_label_classification" else rows
