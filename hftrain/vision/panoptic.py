"""COCO's panoptic files: JSON with the classes of segments, and a PNG for each image, whose values are their ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hftrain.data.lines import Fault
from hftrain.data.readers import Item
from hftrain.data.sources import Reader, ending
from hftrain.vision.annotations import Annotated, crowd_and_area
from hftrain.vision.coco import Categories, coco_content, identity, is_panoptic, named_images, size_of


def read_panoptic(path: Path, images: str | None, masks: str | None, categories: Categories) -> Reader | None:
    """The images of a panoptic file, each with its mask and segments {"value", "label", "crowd"}; None of other files.
    `images`, `masks`: folders; None: the file's own, one beside it, or for masks one with the file's name.

    Raises:
        ValueError: the file has two categories of one name or number.
    """
    if ending(path) != ".json":
        return None
    content = coco_content(path)
    if content is None or not is_panoptic(content):
        return None
    names = categories.define(path, content["categories"])
    columns = ["file_name", "mask", "segments_info"]
    return Reader(str(path), "image", columns, _items(path, images, masks, content, names))


def _items(
    path: Path, images: str | None, masks: str | None, content: Mapping[str, Any], names: Mapping[Any, str]
) -> Iterator[Item]:
    annotated = {identity(annotation, "image_id"): annotation for annotation in content["annotations"]}
    times = Counter(identity(annotation, "image_id") for annotation in content["annotations"])
    beside = path.with_suffix("")
    folder = Path(masks) if masks else beside if beside.is_dir() else path.parent
    for number, image, file in named_images(path, images, content):
        if isinstance(file, Fault):
            yield number, file
            continue
        name, annotation = image["file_name"], annotated.get(identity(image))
        if annotation is None:
            yield number, Fault(f"{name} has no annotation")
            continue
        png = annotation.get("file_name", Path(name).stem + ".png")
        try:
            if times[identity(image)] > 1:
                raise Fault(f"it has {times[identity(image)]} annotations")
            if not isinstance(png, str):
                raise Fault(f"file_name of its mask is not a name: {png!r:.60}")
            segments = _segments(annotation, names)
        except Fault as fault:
            yield number, Fault(f"{name}: {fault}")
            continue
        mask = str((folder / png).absolute())
        yield number, [str(file), mask, Annotated(size_of(image), segments)]


def _segments(annotation: Mapping[str, Any], names: Mapping[Any, str]) -> list[dict[str, Any]]:
    """{"value", "label", "crowd"} of each. Raises: Fault, one has no id or no category, or an id is there twice."""
    listed = annotation.get("segments_info")
    if not isinstance(listed, list):
        raise Fault(f"segments_info must be a list, not {listed!r:.60}")
    segments: dict[int, dict[str, Any]] = {}
    for number, info in enumerate(listed, 1):
        value, category = identity(info), identity(info, "category_id")
        if not isinstance(value, int):
            raise Fault(f"segment {number} has no number as id: {info!r:.60}")
        if value in segments:
            raise Fault(f"segment {value} is there twice")
        if category not in names:
            raise Fault(f"segment {value} has category_id {category}, which is not in categories")
        crowd, _ = crowd_and_area(info, f"segment {value}")
        segments[value] = {"value": value, "label": names[category], "crowd": crowd}
    return [*segments.values()]
