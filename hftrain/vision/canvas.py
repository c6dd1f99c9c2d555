"""Images with boxes as a detector reads them, at one size, and a little different each time.

Boxes are (N, 4) arrays of corners (left, upper, right, lower). All sizes are equal, so that no result depends on which
images come together: a model reads the image stretched, or in proportion with an empty margin, as its processor says.

Shapes: H, W height and width that the model reads, N objects.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from hftrain.models.images import STRIDE, refusal
from hftrain.vision import operations
from hftrain.vision.pixels import FILE, Pixels

GREY = (114, 114, 114)
PLAIN = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "resample": 2, "do_pad": False}
IMAGENET = {"do_normalize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
LEAST_VISIBLE = 0.25  # share of a box that must stay visible
Window = tuple[float, float, float, float]


class Canvas:
    """What an image processor of a detector does, for pictures that are RGB already.

    Args:
        settings: of the processor. `image_size` replaces its size: both sides, or of a padded image the longer one.
    """

    def __init__(self, settings: Mapping[str, Any], image_size: int | None = None):
        self.padded = bool(settings.get("do_pad", False))
        size = settings.get("pad_size") or settings.get("size") or {}
        sides = [size.get(name) for name in ("height", "width", "max_height", "max_width", "longest_edge")]
        known = [side for side in sides if side]
        if image_size is None and not known:
            raise ValueError(f"the image processor {settings.get('image_processor_type')} has no size: set image_size")
        height, width = (image_size, image_size) if image_size else (known[0], known[1] if len(known) > 1 else known[0])
        plain = {name: value for name, value in settings.items() if name not in ("do_pad", "pad_size", "format")}
        self.pixels = Pixels({**plain, "size": {"height": height, "width": width}})
        self.height, self.width = self.pixels.height, self.pixels.width

    def place(self, image: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
        """The picture at W x H, and the (width, height) that the image takes of it, from the left upper corner."""
        if not self.padded:
            return self.pixels.resize(image), (self.width, self.height)
        factor = min(self.width / image.width, self.height / image.height)
        size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
        return image.resize(size, self.pixels.resample), size

    def tensor(self, image: Image.Image) -> torch.Tensor:
        """(3, H, W) float32, rescaled and normalised; zeros beside an image that is smaller."""
        tensor = self.pixels.tensor(image)
        if tensor.shape[1:] == (self.height, self.width):
            return tensor
        whole = torch.zeros(3, self.height, self.width)
        whole[:, : tensor.shape[1], : tensor.shape[2]] = tensor
        return whole

    @staticmethod
    def mask(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(H, W) int64: 1 where an image of this (width, height) is on the canvas `tensor`."""
        mask = torch.zeros(tensor.shape[-2:], dtype=torch.long)
        mask[: size[1], : size[0]] = 1
        return mask

    def picture(self, tensor: torch.Tensor) -> Image.Image:
        return self.pixels.picture(tensor)

    def scaled(self, factor: float) -> Canvas:
        """One whose sides are these times `factor`, as multiples of `STRIDE`."""
        sides = (max(STRIDE, round(side * factor / STRIDE) * STRIDE) for side in (self.height, self.width))
        other = copy.copy(self)
        other.height, other.width = sides
        other.pixels = Pixels({**self.pixels.settings, "size": {"height": other.height, "width": other.width}})
        return other

    def at_step(self, step: int, seed: int, most: float) -> Canvas:
        """One whose sides are these times a number from 1 - `most` to 1 + `most`, which follows from seed and step."""
        return self.scaled(np.random.default_rng([seed, step]).uniform(1 - most, 1 + most)) if most else self

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the settings, as transformers reads them."""
        sides = {"height": self.height, "width": self.width}
        settings = self.pixels.settings | {"size": sides, "do_pad": self.padded}
        if self.padded:
            settings |= {"size": {f"max_{name}": value for name, value in sides.items()}, "pad_size": sides}
        (Path(folder) / FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def size_for(widths: Sequence[int], heights: Sequence[int], largest: int, stride: int) -> tuple[int, str]:
    """The side of the canvas for images of these sizes, a multiple of `stride`, and the reason."""
    longest = np.median(np.maximum(widths, heights))
    side = min(largest, max(stride, -(-int(longest) // stride) * stride))
    return side, f"the training images are {longest:.0f} pixels long, in the median"


def require_sizes(model: Any, canvas: Canvas, multi_scale: float) -> None:
    """Raises: ValueError, the model cannot read images of the canvas, or those that `multi_scale` makes of it."""
    others = [canvas.scaled(factor) for factor in (1 - multi_scale, 1 + multi_scale)] if multi_scale else []
    for one in (canvas, *others):
        if problem := refusal(model, one.height, one.width):
            setting = "image_size" if one is canvas else f"multi_scale={multi_scale:g}, image size"
            raise ValueError(f"{setting}={one.height}: {type(model).__name__} cannot read such images: {problem}")


@dataclass(frozen=True)
class Jitter:
    """What is done to an image and its boxes, in this order; all draws come from NumPy's global generator.

    Args:
        mosaic: probability of composing it with three others.
        scales: smallest and largest share of its size at which it is shown, at a random place.
        flip: probability of exchanging left and right.
        colour: brightness, contrast and saturation times a number from 1 - this to 1 + this.
    """

    mosaic: float = 0.0
    scales: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    colour: float = 0.0

    def __call__(
        self, image: Image.Image, boxes: np.ndarray, other: Callable[[], tuple[Image.Image, np.ndarray, np.ndarray]]
    ) -> tuple[Image.Image, np.ndarray, np.ndarray, list[np.ndarray]]:
        """The picture, its boxes (N, 4), the places of the N boxes in the joined labels, and the labels of the other
        images that were joined to those of `image`. `other` reads another image: picture, boxes, labels."""
        joined: list[np.ndarray] = []
        kept = np.arange(len(boxes))
        if np.random.random() < self.mosaic:
            others = [other() for _ in range(3)]
            joined = [labels for _, _, labels in others]
            image, boxes, kept = mosaic([(image, boxes), *((one, theirs) for one, theirs, _ in others)])
        if self.scales != (1.0, 1.0):
            image, boxes, visible = window(image, boxes, random_window(image, *self.scales))
            kept = kept[visible]
        if np.random.random() < self.flip:
            image, boxes = mirror(image, boxes)
        if self.colour:
            image = jitter_colours(image, self.colour)
        return image, boxes, kept, joined


def jitter_colours(image: Image.Image, most: float) -> Image.Image:
    """Brightness, contrast and saturation times a number from 1 - most to 1 + most each."""
    for operation in (operations.brightness, operations.contrast, operations.colour):
        image = operation(image, np.random.uniform(-most, most))
    return image


def mirror(image: Image.Image, boxes: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """Left and right exchanged."""
    left, top, right, bottom = boxes.T
    return ImageOps.mirror(image), np.stack([image.width - right, top, image.width - left, bottom], axis=1)


def random_window(image: Image.Image, smallest: float, largest: float) -> Window:
    """The part of the plane that shows the image at a scale between both: smaller than the image, which is cropped, or
    larger, with the image somewhere inside."""
    scale = np.exp(np.random.uniform(np.log(smallest), np.log(largest)))
    width, height = image.width / scale, image.height / scale
    left = np.random.uniform(*sorted((0.0, image.width - width)))
    top = np.random.uniform(*sorted((0.0, image.height - height)))
    return left, top, left + width, top + height


def show_part(image: Image.Image, part: Window) -> tuple[Image.Image, int, int]:
    """What a part of the plane shows, grey beside the image, and its left and upper edge in whole pixels."""
    left, top, right, bottom = (round(value) for value in part)
    shown = Image.new("RGB", (max(1, right - left), max(1, bottom - top)), GREY)
    shown.paste(image, (-left, -top))
    return shown, left, top


def window(image: Image.Image, boxes: np.ndarray, part: Window) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """What a part of the plane shows, grey beside the image; its boxes, cut off at its edges, and their places (N,) in
    `boxes`. A box of which less than a quarter is visible is left out."""
    shown, left, top = show_part(image, part)
    moved = boxes - np.array([left, top, left, top])
    cut = moved.clip(0, np.array([shown.width, shown.height, shown.width, shown.height]))
    visible = np.flatnonzero(areas(cut) >= LEAST_VISIBLE * areas(boxes))
    return shown, cut[visible], visible


def mosaic(images: list[tuple[Image.Image, np.ndarray]]) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Four images around a random point of a canvas of twice the size of the first (YOLOv4, arXiv 2004.10934), shown at
    its size; the boxes, and their places in those of all four joined."""
    width, height = images[0][0].size
    centre = [np.random.uniform(0.5, 1.5) * side for side in (width, height)]
    x, y = round(centre[0]), round(centre[1])
    canvas = Image.new("RGB", (2 * width, 2 * height), GREY)
    boxes = []
    for number, (image, own) in enumerate(images):
        factor = np.array([width / image.width, height / image.height])
        left, top = x - width * (number % 2 == 0), y - height * (number < 2)
        canvas.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
        boxes.append(own * np.tile(factor, 2) + np.array([left, top, left, top]))
    joined = np.concatenate(boxes)
    cut = joined.clip(0, np.array([2 * width, 2 * height] * 2))
    visible = np.flatnonzero(areas(cut) >= LEAST_VISIBLE * areas(joined))
    return canvas.resize((width, height), Image.Resampling.BILINEAR), cut[visible] / 2, visible


def areas(boxes: np.ndarray) -> np.ndarray:
    """(N,)"""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
