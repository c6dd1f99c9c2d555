"""Small images with coloured rectangles, as every kind of file describes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("red", "green", "blue")
SIZE = (32, 24)


def scene(number: int) -> tuple[Image.Image, list[tuple[int, list[int]]]]:
    """A picture, and (class, box) of its one or two rectangles. No two are equal."""
    draw = np.random.default_rng(number)
    values = draw.integers(0, 60, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    objects = []
    for side in range(1 + number % 2):
        left, top = 16 * side + int(draw.integers(0, 6)), int(draw.integers(0, 12))
        right, bottom = left + int(draw.integers(6, 10)), top + int(draw.integers(6, 10))
        label = (number + side) % 3
        values[top:bottom, left:right, label] += 150
        objects.append((label, [left, top, right, bottom]))
    return Image.fromarray(values), objects


def write_images(folder: Path, count: int, first: int = 0) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03}.png" for number in range(first, first + count)]
    for number, name in enumerate(names, first):
        scene(number)[0].save(folder / name)
    return names


def coco(count: int, first: int = 0, ids: tuple[int, ...] = (1, 3, 7)) -> dict[str, Any]:
    """The content of a COCO file; the ids of the categories begin at 1 and have gaps."""
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": number, "name": name} for number, name in zip(ids, NAMES, strict=True)]
    for number in range(first, first + count):
        size = {"width": SIZE[0], "height": SIZE[1]}
        content["images"].append({"id": number, "file_name": f"{number:03}.png", **size})
        for label, (left, top, right, bottom) in scene(number)[1]:
            box = [left, top, right - left, bottom - top]
            one = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": ids[label], "bbox": box}
            content["annotations"].append({**one, "area": box[2] * box[3], "iscrowd": 0})
    return content


def write_coco(folder: Path, counts: dict[str, int] | None = None) -> Path:
    """FOLDER/SPLIT/*.png and FOLDER/SPLIT/_annotations.coco.json."""
    first = 0
    for split, count in (counts or {"train": 24, "valid": 6, "test": 6}).items():
        write_images(folder / split, count, first)
        (folder / split / "_annotations.coco.json").write_text(json.dumps(coco(count, first)))
        first += count
    return folder
