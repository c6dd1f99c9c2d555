"""Scenes composed of the digits that come with scikit-learn, with the box and the mask of each digit, as COCO files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hftrain.data.files import cache, make_once

SPLITS = {"train": 1200, "validation": 100, "test": 200}  # scenes
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}  # of the digits: no digit is in two splits
SIDE, DIGITS, MOST = 64, (24, 44), 3  # pixels of a scene's side, limits of those of a digit, and digits at most
INK = 0.25  # what is darker belongs to the digit
TRIES = 20  # to find a free place


def scenes() -> Path:
    """A folder with train.json, validation.json and test.json, and their images in folders of these names."""
    folder = cache() / "images" / f"scenes-1-{SIDE}"
    make_once(folder, lambda stage: _write(stage / "scenes"))
    return folder / "scenes"


def _write(folder: Path) -> None:
    from sklearn.datasets import load_digits

    pictures, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pictures))
    starts = np.cumsum([0, *(round(share * len(order)) for share in SHARES.values())])
    for number, (split, count) in enumerate(SPLITS.items()):
        chosen = order[starts[number] : starts[number + 1]]
        digits = [(pictures[place].reshape(8, 8) / 16, int(classes[place])) for place in chosen]
        (folder / split).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for place in range(count):
            picture, objects = compose(np.random.default_rng([number, place]), digits)
            name = f"{split}/{place:05}.png"
            picture.save(folder / name)
            images.append({"id": place, "file_name": name, "width": SIDE, "height": SIDE})
            annotations += [{"id": len(annotations) + i, "image_id": place, **one} for i, one in enumerate(objects, 1)]
        categories = [{"id": digit, "name": str(digit)} for digit in range(10)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")


def compose(
    draw: np.random.Generator, digits: list[tuple[np.ndarray, int]]
) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A scene of one digit or more, and for each its class, box, area and mask, as COCO writes them."""
    from pycocotools import mask

    canvas = draw.normal(draw.uniform(20, 90), 8, (SIDE, SIDE, 1)).repeat(3, axis=2)
    owner = np.zeros((SIDE, SIDE), int)  # the number of the digit that shows
    labels: list[int] = []
    squares: list[tuple[int, int, int]] = []
    for _ in range(draw.integers(1, MOST + 1)):
        square = _free_square(draw, squares)
        if square is None:
            continue
        left, top, side = square
        picture, label = digits[draw.integers(len(digits))]
        squares.append(square)
        labels.append(label)
        grey = Image.fromarray(np.round(picture * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        alpha = np.asarray(grey)[..., None] / 255
        part = (slice(top, top + side), slice(left, left + side))
        canvas[part] = canvas[part] * (1 - alpha) + draw.uniform(130, 255, 3) * alpha
        owner[part][alpha[..., 0] > INK] = len(labels)
    objects = []
    for number, label in enumerate(labels, 1):
        encoded = mask.encode(np.asfortranarray(owner == number, np.uint8))
        encoded["counts"] = encoded["counts"].decode()
        shown = mask.toBbox(encoded).tolist()
        if shown[2] and shown[3]:
            area = int(mask.area(encoded))
            objects.append({"category_id": label, "bbox": shown, "area": area, "iscrowd": 0, "segmentation": encoded})
    return Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8)), objects


def _free_square(draw: np.random.Generator, taken: list[tuple[int, int, int]]) -> tuple[int, int, int] | None:
    """(left, upper, side) of a place that covers no other one by more than a fifth of its side; None if there is no
    room."""
    for _ in range(TRIES):
        side = int(draw.integers(*DIGITS))
        left, top = (int(value) for value in draw.integers(0, SIDE - side, 2))
        overlaps = (
            (min(left + side, x + other) - max(left, x), min(top + side, y + other) - max(top, y))
            for x, y, other in taken
        )
        if all(min(pair) <= side / 5 for pair in overlaps):
            return left, top, side
    return None
