"""COCO's panoptic files: JSON with the classes of segments, and a PNG for each image, whose values are their ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hftrain.data.lines import Fault
from hftrain.data.readers import Item
from hftrain.data.sources import Reader, ending
from hftrain.vision.annotations import Annotated, Categories, coco_content, image_folder, is_panoptic


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
    annotated = {annotation.get("image_id"): annotation for annotation in content["annotations"]}
    beside = path.with_suffix("")
    mask_folder = Path(masks) if masks else beside if beside.is_dir() else path.parent
    for number, image in enumerate(content["images"], 1):
        name, annotation = image.get("file_name"), annotated.get(image.get("id"))
        if not isinstance(name, str) or not name:
            yield number, Fault(f"image id {image.get('id')} has no file_name")
            continue
        if annotation is None:
            yield number, Fault(f"{name} has no annotation")
            continue
        segments, strange = [], None
        for info in annotation["segments_info"]:
            if info.get("category_id") not in names:
                strange = f"{name}: segment {info.get('id')} has category_id {info.get('category_id')}"
                break
            label, crowd = names[info["category_id"]], bool(info.get("iscrowd"))
            segments.append({"value": int(info["id"]), "label": label, "crowd": crowd})
        if strange:
            yield number, Fault(f"{strange}, which is not in categories")
            continue
        width, height = image.get("width"), image.get("height")
        folder = Path(images) if images else image_folder(path, name)
        mask = str((mask_folder / annotation.get("file_name", Path(name).stem + ".png")).absolute())
        yield number, [str(folder.absolute() / name), mask, Annotated((width, height) if width else None, segments)]
