"""Masks: which segment each pixel belongs to. Files of masks, and changes that follow the image.

A map is an (H, W) int32 array: 0 where no segment is, else the number of a segment, counted from 1.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from hftrain.data.lines import Fault
from hftrain.vision.canvas import Window, jitter_colours, random_window, show_part
from hftrain.vision.decoding import opened
from hftrain.vision.encodings import decode

VOID = 255  # the label of pixels that are not learnt
REST = -1  # the value of the segment that has all pixels of no other one
COPIED = 0.5  # share of the other image's objects that copy-paste takes


class MaskFacts(NamedTuple):
    """What a mask file holds: sha256 of its bytes, its size, whether its values are colours, and how many pixels have
    each value."""

    content: str
    width: int
    height: int
    coloured: bool
    values: list[list[int]]


def examine_mask(path: Path) -> MaskFacts:
    """Reads the whole file. Raises: Fault, it is missing, damaged, or of a format that changes values."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Fault(f"the mask {path} cannot be read: {error.strerror}") from None
    try:
        values, coloured = _values(content, path)
    except Fault as fault:
        raise Fault(str(fault) if str(path) in str(fault) else f"the mask {path}: {fault}") from None
    pairs = np.stack(np.unique(values, return_counts=True), axis=1).tolist()
    return MaskFacts(hashlib.sha256(content).hexdigest(), values.shape[1], values.shape[0], coloured, pairs)


def read_values(path: str) -> np.ndarray:
    """(H, W) int64: the number of each pixel; a palette's index; of a colour red + 256 green + 65536 blue, as COCO
    writes the ids of panoptic segments.

    Raises:
        ValueError: the file is not what it was when the rows were read.
    """
    try:
        return _values(Path(path).read_bytes(), Path(path))[0]
    except (Fault, OSError) as error:
        raise ValueError(f"{path} has changed since the rows were read: {error}") from None


def _values(content: bytes, path: Path) -> tuple[np.ndarray, bool]:
    with opened(content) as image:
        if image.format == "JPEG":
            raise Fault(f"the mask {path} is a JPEG, which changes values: save masks as PNG")
        if image.mode == "F":
            raise Fault(f"the mask {path} has floating-point numbers: save class numbers as PNG")
        if image.mode in ("LA", "La"):
            image = image.convert("L")
        if image.mode == "1" or image.mode.startswith(("L", "P", "I")):
            return np.asarray(image).astype(np.int64), False
        red, green, blue = np.asarray(image.convert("RGB")).astype(np.int64).transpose(2, 0, 1)
        return red + 256 * green + 65536 * blue, True


def name_value(value: int, coloured: bool) -> str:
    """A value as the settings write it: a number, or #rrggbb."""
    return f"#{value & 255:02x}{value >> 8 & 255:02x}{value >> 16:02x}" if coloured else str(value)


def segment_map(mask: str, values: Sequence[int], counts: Sequence[str], height: int, width: int) -> np.ndarray:
    """The map of segments: those of the file `mask` with these values, or else those of the run-length encodings, the
    smaller of two at one place. A segment of the value `REST` has the other pixels."""
    if mask:
        pixels = read_values(mask)
        known, places = np.unique(pixels, return_inverse=True)
        numbers = {value: number for number, value in enumerate(values, 1)}
        table = np.array([numbers.get(value, 0) for value in known.tolist()], np.int32)
        return table[places.reshape(pixels.shape)]
    result = np.zeros((height, width), np.int32)
    masks = [(number, decode(text, height, width)) for number, text in enumerate(counts, 1) if text]
    for number, pixels in sorted(masks, key=lambda pair: -pair[1].sum()):
        result[pixels] = number
    if REST in values:
        result[result == 0] = list(values).index(REST) + 1
    return result


# ---- augmentation


class Segmented(NamedTuple):
    """An image, its map (H, W), and of each segment whether copy-paste may take it."""

    image: Image.Image
    segments: np.ndarray
    things: np.ndarray


@dataclass(frozen=True)
class MaskJitter:
    """What is done to an image and its map, in this order; all draws come from NumPy's global generator.

    Args:
        copied: probability of copying objects of another image onto it (copy-paste, arXiv 2012.07177).
        scales: smallest and largest share of its size at which it is shown, at a random place.
        flip: probability of exchanging left and right.
        colour: brightness, contrast and saturation times a number from 1 - this to 1 + this.
    """

    copied: float = 0.0
    scales: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    colour: float = 0.0

    def __call__(self, own: Segmented, other: Callable[[], Segmented]) -> tuple[Image.Image, np.ndarray, bool]:
        """The picture, its map, and whether segments of the image that `other` reads were added: their numbers follow
        those of the image's own."""
        image, segments = self._moved(own)
        copied = bool(np.random.random() < self.copied)
        if copied:
            source = other()
            image, segments = copy_objects(image, segments, len(own.things), *self._moved(source), source.things)
        if self.colour:
            image = jitter_colours(image, self.colour)
        return image, segments, copied

    def _moved(self, whole: Segmented) -> tuple[Image.Image, np.ndarray]:
        image, segments = whole.image, whole.segments
        if self.scales != (1.0, 1.0):
            image, segments = window(image, segments, random_window(image, *self.scales))
        if np.random.random() < self.flip:
            image, segments = ImageOps.mirror(image), segments[:, ::-1]
        return image, segments


def window(image: Image.Image, segments: np.ndarray, part: Window) -> tuple[Image.Image, np.ndarray]:
    """What a part of the plane shows: grey and no segment beside the image."""
    shown, left, top = show_part(image, part)
    moved = np.zeros((shown.height, shown.width), segments.dtype)
    rows = slice(max(0, top), min(top + shown.height, image.height))
    columns = slice(max(0, left), min(left + shown.width, image.width))
    inside = segments[rows, columns]
    moved[rows.start - top : rows.start - top + inside.shape[0], columns.start - left :][:, : inside.shape[1]] = inside
    return shown, moved


def copy_objects(
    image: Image.Image,
    segments: np.ndarray,
    count: int,
    other: Image.Image,
    theirs: np.ndarray,
    things: np.ndarray,
) -> tuple[Image.Image, np.ndarray]:
    """Half of the objects of another image, on average, over the image; their numbers follow the `count` of its own."""
    taken = np.flatnonzero(things & (np.random.random(len(things)) < COPIED)) + 1
    theirs = resize_map(theirs, *image.size)
    over = np.isin(theirs, taken)
    pasted = np.where(
        over[..., None], np.asarray(other.resize(image.size, Image.Resampling.BILINEAR)), np.asarray(image)
    )
    return Image.fromarray(pasted.astype(np.uint8)), np.where(over, theirs + count, segments).astype(np.int32)


def resize_map(segments: np.ndarray, width: int, height: int) -> np.ndarray:
    """Each pixel has the number of the nearest one."""
    if segments.shape == (height, width):
        return segments
    picture = Image.fromarray(np.ascontiguousarray(segments, np.int32))
    return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST), np.int32)


def png(pixels: np.ndarray) -> bytes:
    """An (H, W) map as an indexed PNG, of 16 bits if it has numbers over 255."""
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8 if pixels.max(initial=0) < 256 else np.uint16)).save(file, "PNG")
    return file.getvalue()
