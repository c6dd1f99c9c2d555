"""Checks of every metric's input, with messages that name the fault and its place."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Values = Sequence[Any] | np.ndarray  # one for each example


def same_length(**columns: Values) -> None:
    """Raises ValueError unless all columns have the same number of rows."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError("the lengths differ: " + ", ".join(f"{length} {name}" for name, length in lengths.items()))


def numbers(name: str, values: Values) -> np.ndarray:
    """`values` as an array of finite floats; float32 stays float32: order and ties are the same, and it needs half the
    memory.

    Raises:
        ValueError: they are not numbers, or some are NaN or infinite (the message has their number and the first row).
    """
    try:
        array = np.asarray(values)
        array = array if array.dtype == np.float32 else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from error
    if not (finite := np.isfinite(array)).all():
        row = int(np.argwhere(~finite)[0][0])
        raise ValueError(
            f"{int((~finite).sum())} of {array.size} {name} are not finite (the first in row {row}: {array[row]}); "
            "the model has diverged, or a logarithm of 0 was taken"
        )
    return array


def class_ids(name: str, values: Values) -> np.ndarray:
    """`values` as an int64 array.

    Raises:
        ValueError: a value is not a whole number.
    """
    array = np.asarray(values)
    if array.dtype == np.int64:
        return array
    floats = numbers(name, array)
    if (floats != np.floor(floats)).any():
        where = int(np.argwhere(floats != np.floor(floats))[0][0])
        raise ValueError(f"{name} must be class numbers, but row {where} has {floats[where]}")
    return floats.astype(np.int64)


def some(count: int) -> None:
    """Raises ValueError if there is nothing to score."""
    if not count:
        raise ValueError("nothing to score: 0 predictions")
