"""COCO's JSON files of objects and of panoptic segments. Each image becomes one row."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hftrain.data.lines import Fault
from hftrain.data.readers import Item
from hftrain.data.sources import Reader, ending
from hftrain.vision.annotations import Annotated, corners_of, crowd_and_area
from hftrain.vision.encodings import polygons, run_lengths

logger = logging.getLogger(__name__)

PARTS = ("images", "annotations", "categories")


@dataclass
class Categories:
    """The classes that files define, in their order: name -> number in the file; and those that are not objects, as
    sky or grass (stuff)."""

    ids: dict[str, int] = field(default_factory=dict)
    stuff: set[str] = field(default_factory=set)

    def define(self, path: Path, categories: Sequence[Any]) -> dict[Any, str]:
        """Adds the categories of a COCO file; returns their names by number.

        Raises:
            ValueError: two have one name or number, or one has none.
        """
        names: dict[Any, str] = {}
        for place, category in enumerate(categories, 1):
            number, name = identity(category), category.get("name") if isinstance(category, dict) else None
            if not isinstance(number, int) or not isinstance(name, str | int):
                raise ValueError(f"{path}: category {place} must have a number as id, and a name: {category!r:.60}")
            name = str(name).strip()
            if number in names or name in names.values():
                raise ValueError(f"{path}: the category {name!r} (id {number}) is there twice: rename one")
            names[number] = name
            thing = category.get("isthing", 1)
            if thing not in (0, 1):
                raise ValueError(f"{path}: isthing of the category {name!r} must be 0 or 1, not {thing!r:.60}")
            if not thing:
                self.stuff.add(name)
        for number in sorted(names):
            self._number(path, names[number], number)
        return names

    def _number(self, path: Path, name: str, number: int) -> None:
        """Gives a class its number, or the next free one if another file has given it to another class."""
        if name in self.ids:
            return
        taken = {other: name for name, other in self.ids.items()}
        self.ids[name] = max(taken) + 1 if number in taken else number
        if number in taken:
            logger.warning(
                "%s: the category id %d of %r is that of %r in another file; here it is %d, also in what hftrain "
                "predict --coco writes", path, number, name, taken[number], self.ids[name],
            )  # fmt: skip


def identity(item: object, key: str = "id") -> Hashable:
    """The id of an image, annotation or category; None where it has none, or is no object of JSON."""
    value = item.get(key) if isinstance(item, dict) else None
    return value if isinstance(value, int | str) else None


def coco_content(path: Path) -> dict[str, Any] | None:
    """The content of a COCO file; None of other files.

    Raises:
        ValueError: its images, annotations or categories are not a list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # the reader of JSON rows names the reason
    if not isinstance(content, dict) or not content.keys() >= set(PARTS):
        return None
    for part in PARTS:
        if not isinstance(content[part], list):
            raise ValueError(f"{path}: {part} must be a list, not {content[part]!r:.60}")
    return content


def read_coco(path: Path, images: str | None, categories: Categories) -> Reader | None:
    """The images of a COCO file with their boxes; None of other files. `images`: the folder that has the images; None:
    the file's own, or one beside it.

    Raises:
        ValueError: the file has two categories of one name or number.
    """
    if ending(path) != ".json":
        return None
    content = coco_content(path)
    if content is None or is_panoptic(content):
        return None
    names = categories.define(path, content["categories"])
    return Reader(str(path), "image", ["file_name", "annotations"], _items(path, images, content, names))


def is_panoptic(content: Mapping[str, Any]) -> bool:
    """Whether a COCO file has the segments of PNG files, not objects."""
    return any(isinstance(one, dict) and "segments_info" in one for one in content["annotations"])


def named_images(
    path: Path, images: str | None, content: Mapping[str, Any]
) -> Iterator[tuple[int, dict[str, Any], Path | Fault]]:
    """The number of each image in a COCO file, what the file says of it, and where it is, or why it cannot be used.
    `images`: as in `read_coco`."""
    folder = Path(images) if images else None
    times = Counter(identity(image) for image in content["images"])
    for number, image in enumerate(content["images"], 1):
        name = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(name, str) or not name:
            yield number, {}, Fault(f"the image has no file_name: {image!r:.60}")
        elif identity(image) is None:
            yield number, image, Fault(f"{name} has no id, which annotations need")
        elif times[identity(image)] > 1:
            yield number, image, Fault(f"{name} has the id {image['id']!r}, which another image has too")
        else:
            folder = folder or image_folder(path, name)
            yield number, image, folder.absolute() / name


def size_of(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """(width, height) that a file says of an image, if it does."""
    width, height = image.get("width"), image.get("height")
    return (width, height) if width and height else None


def _items(path: Path, images: str | None, content: Mapping[str, Any], names: Mapping[Any, str]) -> Iterator[Item]:
    objects: dict[Hashable, list[dict[str, Any] | Fault]] = {identity(image): [] for image in content["images"]}
    for annotation in content["annotations"]:
        image_id = identity(annotation, "image_id")
        if image_id is None or image_id not in objects:
            reason = f"is of image_id {image_id}, not there"
            if image_id is None:
                reason = f"has no image_id: {annotation!r:.60}"
            yield 0, Fault(f"annotation {identity(annotation)} {reason}")
            continue
        try:
            objects[image_id].append(_object(annotation, names))
        except Fault as fault:
            objects[image_id].append(fault)
    for number, image, file in named_images(path, images, content):
        items = objects[identity(image)] if not isinstance(file, Fault) else []
        if isinstance(file, Fault):
            yield number, file
        elif faults := [item for item in items if isinstance(item, Fault)]:
            yield number, Fault(f"{image['file_name']}: {faults[0]}")
        else:
            yield number, [str(file), Annotated(size_of(image), [item for item in items if isinstance(item, dict)])]


def image_folder(path: Path, name: str) -> Path:
    """The folder of a COCO file's images, which has one of this name."""
    places = [path.parent, path.parent / "images", path.parent.parent / "images", path.parent.parent]
    places.append(path.parent.parent / path.stem.rpartition("_")[2])  # annotations/instances_train2017.json
    return next((place for place in places if (place / name).is_file()), path.parent)


def _object(annotation: Mapping[str, Any], names: Mapping[Any, str]) -> dict[str, Any]:
    what = f"annotation {identity(annotation)}"
    category, size = identity(annotation, "category_id"), None
    if category not in names:
        raise Fault(f"{what} has category_id {annotation.get('category_id')!r:.60}, which is not in categories")
    box, segmentation = annotation.get("bbox"), annotation.get("segmentation")
    if box is None:
        corners, size = _around(segmentation, what)
    else:
        corners = corners_of(box, "xywh", what)
    crowd, area = crowd_and_area(annotation, what)
    plain = {"box": corners, "label": names[category], "crowd": crowd, "area": area, "what": what}
    return plain | {"segmentation": segmentation, "size": size}


def _around(segmentation: object, what: str) -> tuple[tuple[float, float, float, float], list[int] | None]:
    """The box around polygons or a run-length encoding, and the size of the image that the latter names."""
    if isinstance(segmentation, dict):
        from pycocotools import mask

        coded = run_lengths(segmentation, what)
        left, top, width, height = mask.toBbox(coded).tolist()
        return (left, top, left + width, top + height), coded["size"]
    if not segmentation:
        raise Fault(f"{what} has no bbox, and no polygon or run-length encoding to take it from")
    points = np.concatenate(polygons(segmentation, what))
    x, y = points[0::2], points[1::2]
    return (float(x.min()), float(y.min()), float(x.max()), float(y.max())), None
