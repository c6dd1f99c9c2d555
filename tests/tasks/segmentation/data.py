"""Small images with coloured rectangles and their masks, as every kind of file describes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.tasks.detection.data import NAMES, SIZE, coco, scene, write_images

COUNTS = {"train": 24, "valid": 6, "test": 6}
COLOURS = ("#000000", "#c80000", "#00c800", "#0000c8")  # of the background and the classes


def labels_of(number: int) -> np.ndarray:
    """(H, W): 0 for the background, 1 + class elsewhere."""
    labels = np.zeros(SIZE[::-1], np.uint8)
    for label, (left, top, right, bottom) in scene(number)[1]:
        labels[top:bottom, left:right] = 1 + label
    return labels


def write_folders(folder: Path, form: str = "grey") -> Path:
    """FOLDER/SPLIT/images/*.png and FOLDER/SPLIT/masks/*.png: "grey", "indexed" or "colour"."""
    first = 0
    for split, count in COUNTS.items():
        write_images(folder / split / "images", count, first)
        (folder / split / "masks").mkdir(parents=True)
        for number in range(first, first + count):
            labels = labels_of(number)
            picture = Image.fromarray(labels)
            if form == "indexed":
                picture.putpalette([value for colour in COLOURS for value in bytes.fromhex(colour[1:])])
            if form == "colour":
                table = np.array([[*bytes.fromhex(colour[1:])] for colour in COLOURS], np.uint8)
                picture = Image.fromarray(table[labels])
            picture.save(folder / split / "masks" / f"{number:03}.png")
        first += count
    return folder


def objects_with_masks(count: int, first: int = 0, form: str = "polygon") -> dict[str, Any]:
    """The content of a COCO file with "polygon", "counts" (uncompressed) or "rle" masks."""
    from pycocotools import mask

    content = coco(count, first)
    for one in content["annotations"]:
        left, top, width, height = one["bbox"]
        polygon = [[left, top, left + width, top, left + width, top + height, left, top + height]]
        if form == "polygon":
            one["segmentation"] = polygon
            continue
        coded = mask.merge(mask.frPyObjects(polygon, SIZE[1], SIZE[0]))
        if form == "rle":
            one["segmentation"] = {"size": coded["size"], "counts": coded["counts"].decode()}
            continue
        flat = mask.decode(coded).flatten(order="F")
        starts = np.flatnonzero(np.diff(flat, prepend=0))
        one["segmentation"] = {"size": coded["size"], "counts": np.diff([0, *starts, len(flat)]).tolist()}
    return content


def write_objects(folder: Path) -> Path:
    """FOLDER/SPLIT/*.png and FOLDER/SPLIT/_annotations.coco.json."""
    first = 0
    for split, count in COUNTS.items():
        write_images(folder / split, count, first)
        (folder / split / "_annotations.coco.json").write_text(json.dumps(objects_with_masks(count, first)))
        first += count
    return folder


def write_panoptic(folder: Path) -> Path:
    """FOLDER/SPLIT.json, FOLDER/images/*.png and FOLDER/SPLIT/*.png: each rectangle a segment, and the background."""
    first = 0
    for split, count in COUNTS.items():
        write_images(folder / "images", count, first)
        (folder / split).mkdir()
        content: dict[str, Any] = {"images": [], "annotations": []}
        things = [{"id": 1 + number, "name": name, "isthing": 1} for number, name in enumerate(NAMES)]
        content["categories"] = [*things, {"id": 9, "name": "ground", "isthing": 0}]
        for number in range(first, first + count):
            ids = np.full(SIZE[::-1], 70_000)
            segments = [{"id": 70_000, "category_id": 9, "iscrowd": 0}]
            for place, (label, (left, top, right, bottom)) in enumerate(scene(number)[1], 300):
                ids[top:bottom, left:right] = place
                segments.append({"id": place, "category_id": 1 + label, "iscrowd": 0})
            colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
            Image.fromarray(colours).save(folder / split / f"{number:03}.png")
            size = {"width": SIZE[0], "height": SIZE[1]}
            content["images"].append({"id": number, "file_name": f"{number:03}.png", **size})
            annotation = {"image_id": number, "file_name": f"{number:03}.png", "segments_info": segments}
            content["annotations"].append(annotation)
        (folder / f"{split}.json").write_text(json.dumps(content))
        first += count
    return folder
