"""Training pictures that are a little different each time.

All draws come from NumPy's global generator, which `fit` seeds for each example of a step: the same in any cut of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from hftrain.vision import operations
from hftrain.vision.pixels import Pixels

TRIES = 10  # to draw a part that lies inside the picture


@dataclass(frozen=True)
class Augmentation:
    """What is done to a picture, in this order.

    Args:
        crop_area: least share of the picture that a random part of it has; 1: the picture as in evaluation.
        flip: probability of exchanging left and right.
        colour_jitter: brightness, contrast and saturation times a number from 1 - this to 1 + this.
        policy: random operations: trivial is one of any strength (TrivialAugment, arXiv 2103.10158), randaugment two
            of one strength, 9 of 30 (RandAugment, arXiv 1909.13719).
        erasing: probability of noise in a rectangle of 2 % to 33 % of the picture (arXiv 1708.04896).
    """

    crop_area: float = 1.0
    flip: float = 0.0
    colour_jitter: float = 0.0
    policy: Literal["none", "trivial", "randaugment"] = "none"
    erasing: float = 0.0

    def __call__(self, image: Image.Image, pixels: Pixels) -> torch.Tensor:
        """(3, H, W), as `pixels` makes it."""
        image = pixels.fit(image) if self.crop_area >= 1 else pixels.resize(image, random_part(image, self.crop_area))
        if np.random.random() < self.flip:
            image = ImageOps.mirror(image)
        if self.colour_jitter:
            for operation in (operations.brightness, operations.contrast, operations.colour):
                image = operation(image, np.random.uniform(-self.colour_jitter, self.colour_jitter))
        if self.policy == "trivial":
            image = random_operation(image, np.random.random())
        if self.policy == "randaugment":
            image = random_operation(random_operation(image, 0.3), 0.3)
        tensor = pixels.tensor(image)
        return erase(tensor) if np.random.random() < self.erasing else tensor


def random_part(image: Image.Image, least: float) -> tuple[int, int, int, int]:
    """A part of the picture, of `least` of its area or more and with sides of 3 : 4 to 4 : 3 (Szegedy et al. 2014)."""
    width, height = image.size
    for _ in range(TRIES):
        area = width * height * np.random.uniform(least, 1)
        ratio = math.exp(np.random.uniform(math.log(3 / 4), math.log(4 / 3)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = np.random.randint(width - wide + 1), np.random.randint(height - high + 1)
            return left, top, left + wide, top + high
    side = min(width, height)  # of very long pictures
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def random_operation(image: Image.Image, strength: float) -> Image.Image:
    """One of the operations, in one of its two directions."""
    operation = operations.OPERATIONS[np.random.randint(len(operations.OPERATIONS))]
    return operation(image, strength * (-1) ** np.random.randint(2))


def random_box(height: int, width: int, area: float, ratio: float) -> tuple[slice, slice]:
    """Rows and columns of a rectangle of this share of the area, cut off at the edges."""
    high, wide = math.sqrt(area * ratio) * height, math.sqrt(area / ratio) * width
    middle, centre = np.random.uniform(0, height), np.random.uniform(0, width)
    rows = slice(max(0, round(middle - high / 2)), min(height, round(middle + high / 2)))
    return rows, slice(max(0, round(centre - wide / 2)), min(width, round(centre + wide / 2)))


def erase(tensor: torch.Tensor) -> torch.Tensor:
    """(3, H, W) with noise in a rectangle."""
    ratio = math.exp(np.random.uniform(math.log(0.3), math.log(3.3)))
    rows, columns = random_box(tensor.shape[1], tensor.shape[2], np.random.uniform(0.02, 0.33), ratio)
    hole = tensor[:, rows, columns]
    tensor[:, rows, columns] = torch.from_numpy(np.random.standard_normal(hole.shape).astype(np.float32))
    return tensor


def mix(first: torch.Tensor, second: torch.Tensor, alpha: float) -> tuple[torch.Tensor, float]:
    """MixUp (arXiv 1710.09412): both pictures, and the share of the first, drawn from Beta(alpha, alpha)."""
    share = np.random.beta(alpha, alpha)
    return first * share + second * (1 - share), share


def paste(first: torch.Tensor, second: torch.Tensor, alpha: float) -> tuple[torch.Tensor, float]:
    """CutMix (arXiv 1905.04899): the first picture with a rectangle of the second, and the share that is left of the
    first."""
    rows, columns = random_box(first.shape[1], first.shape[2], 1 - np.random.beta(alpha, alpha), 1.0)
    pasted = first.clone()
    pasted[:, rows, columns] = second[:, rows, columns]
    part = (rows.stop - rows.start) * (columns.stop - columns.start)
    return pasted, 1 - part / (first.shape[1] * first.shape[2])
