"""Masks as COCO writes them: polygons and run-length encodings, checked before pycocotools reads them.

A run-length encoding is {"size": [height, width], "counts": ...}: how many pixels, column by column, are outside,
inside, outside, ...; a list of numbers, or a text of five bits a letter. pycocotools reads beyond its memory where the
numbers do not add up to the size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hftrain.data.lines import Fault

FIRST, MORE, SIGN = 48, 32, 16  # of a letter of counts: the least one; the bits of a continuation and of the sign


def encode(pixels: np.ndarray) -> str:
    """An (H, W) mask."""
    from pycocotools import mask

    counts: bytes = mask.encode(np.asfortranarray(pixels, np.uint8))["counts"]
    return counts.decode()


def decode(counts: str, height: int, width: int) -> np.ndarray:
    """(H, W) bool."""
    from pycocotools import mask

    return np.asarray(mask.decode({"size": [height, width], "counts": counts.encode()})).astype(bool)


def encode_segmentation(segmentation: object, height: int, width: int, what: str) -> str:
    """Polygons, or a run-length encoding in any of COCO's forms, of an image of this size.

    Raises:
        Fault: it is neither, damaged, of another size, outside of the image, or empty.
    """
    from pycocotools import mask

    if isinstance(segmentation, dict):
        coded = run_lengths(segmentation, what)
        require_size(coded["size"], height, width, what)
    else:
        parts = polygons(segmentation, what)
        over = max(max(-part.min(), part[0::2].max() - width, part[1::2].max() - height) for part in parts)
        if over > 1:
            raise Fault(f"{what} has a polygon that reaches {over:g} pixels over the edge of the image")
        coded = mask.merge(mask.frPyObjects([part.tolist() for part in parts], height, width))
    if not mask.area(coded):
        raise Fault(f"{what} has an empty mask")
    text: bytes = coded["counts"]
    return text.decode()


def require_size(size: Sequence[int], height: int, width: int, what: str) -> None:
    """Raises: Fault, a run-length encoding is of an image of another size."""
    if list(size) != [height, width]:
        raise Fault(f"{what} has a mask of {size[1]} x {size[0]} pixels, but the image has {width} x {height}")


def polygons(segmentation: object, what: str) -> list[np.ndarray]:
    """Each polygon as (2 N,) numbers: x, y, x, y, ... Raises: Fault, it has no polygon, or other values."""
    if not isinstance(segmentation, list) or not segmentation:
        raise Fault(f"{what} has no polygon or run-length encoding")
    parts = []
    for part in segmentation:
        try:
            values = np.asarray(part, np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.ndim != 1 or len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
            raise Fault(f"{what}: a polygon must be an even number of finite numbers, from 6 on, not {part!r:.60}")
        parts.append(values)
    return parts


def run_lengths(encoding: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A run-length encoding with its counts as pycocotools reads them: {"size": [height, width], "counts": bytes}.

    Raises:
        Fault: it is damaged, or not of its size.
    """
    from pycocotools import mask

    size, written = encoding.get("size"), encoding.get("counts")
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(_whole(side) and side > 0 for side in size)):
        raise Fault(f"{what}: the size of a run-length encoding must be [height, width], not {size!r:.60}")
    counts = _counts(written)
    if counts is None or min(counts, default=0) < 0:
        raise Fault(f"{what}: the counts of a run-length encoding are damaged: {written!r:.60}")
    if sum(counts) != size[0] * size[1]:
        wanted = f"but {size[0]} x {size[1]} pixels are {size[0] * size[1]:,}"
        raise Fault(f"{what}: the counts of a run-length encoding add up to {sum(counts):,}, {wanted}")
    coded: dict[str, Any] = mask.frPyObjects({"size": list(size), "counts": counts}, *size)
    return coded


def _counts(written: object) -> list[int] | None:
    """The numbers of counts; None if they are damaged."""
    if isinstance(written, list):
        return written if written and all(map(_whole, written)) else None
    if isinstance(written, str):
        written = written.encode("ascii", "replace")
    if not isinstance(written, bytes) or not written:
        return None
    letters = np.frombuffer(written, np.uint8).astype(np.int64) - FIRST
    if letters.min() < 0 or letters.max() >= 2 * MORE or letters[-1] & MORE:
        return None
    last = np.flatnonzero(letters & MORE == 0)  # letter of each number; the lowest bits come first
    first = np.concatenate([[0], last[:-1] + 1])
    places = np.arange(len(letters)) - np.repeat(first, last - first + 1)
    if places.max() > 10:
        return None
    values = np.add.reduceat((letters & MORE - 1) << 5 * places, first)
    values -= (letters[last] & SIGN != 0) * (1 << 5 * (places[last] + 1))
    for start in (1, 2):  # from the third one on, a number is the difference to the one before the last
        values[start::2] = np.cumsum(values[start::2])
    return [int(value) for value in values]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
