"""Files that say where objects stand in images: Pascal VOC XML, YOLO txt, columns. Each image becomes one row.

A box is (left, upper, right, lower) in pixels of the upright image; right and lower are outside of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import yaml

from hftrain.data.lines import Fault
from hftrain.data.readers import Item
from hftrain.data.sources import Reader, ending
from hftrain.vision.encodings import require_size
from hftrain.vision.sources import ENDINGS

Box = tuple[float, float, float, float]
TOLERANCE = 1.0  # pixels by which a box may reach over the edge: rounding, which is cut off


class Annotated(NamedTuple):
    """What a file says of an image: its (width, height) if it names them, and {"box", "label", "crowd", "area"} of each
    object. `crowd`: the box is around several objects that are not told apart, and is not learnt."""

    size: tuple[int, int] | None
    objects: list[dict[str, Any]]


def text_of(path: Path) -> str:
    """The text of a file, without a byte order mark. Raises: Fault, it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise Fault(f"{path} is not UTF-8: save it as UTF-8") from None


def _lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a list that are not blank, with their numbers. Raises: ValueError, it is not UTF-8."""
    try:
        lines = text_of(path).splitlines()
    except Fault as fault:
        raise ValueError(str(fault)) from None
    yield from ((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())


# ---- Pascal VOC


def read_voc(path: Path) -> Reader | None:
    """An XML file as one row, or a list of names in ImageSets/Main as a row each; None of other files."""
    if ending(path) == ".xml":
        return Reader(str(path), "file", ["filename", "its objects"], iter([(1, _voc_item(path))]))
    if ending(path) == ".txt" and path.parent.parent.name == "ImageSets":
        return Reader(str(path), "line", ["the name", "its objects"], _voc_list(path))
    return None


def _voc_list(path: Path) -> Iterator[Item]:
    for number, line in _lines_of(path):
        words = line.split()
        if words[1:2] != ["-1"]:  # of a class that the image does not show
            yield number, _voc_item(path.parent.parent.parent / "Annotations" / f"{words[0]}.xml")


def _voc_item(path: Path) -> list[Any] | Fault:
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        return Fault(f"{path} cannot be read: {error.strerror}")
    except ElementTree.ParseError as error:
        return Fault(f"{path} is not valid XML: {error}")
    if root.tag != "annotation":
        return Fault(f"{path} is not an annotation of Pascal VOC: its first element is {root.tag}")
    name = (root.findtext("filename") or "").strip()
    folders = [path.parent, *(path.parent.parent / name for name in ("images", "JPEGImages"))]
    names = [name, *(path.stem + ending for ending in ENDINGS)] if name else [path.stem + ending for ending in ENDINGS]
    files = [folder / name for name in names for folder in folders]
    image = next((file for file in files if file.is_file()), files[0])
    objects = []
    try:
        for number, item in enumerate(root.iter("object"), 1):
            label, box = (item.findtext("name") or "").strip(), item.find("bndbox")
            if not label or box is None:
                raise Fault(f"object {number} has no {'bndbox' if label else 'name'}")
            values = [box.findtext(key) for key in ("xmin", "ymin", "xmax", "ymax")]
            left, top, right, bottom = corners_of(values, "xyxy", f"object {number}")
            # the first pixel has the number 1, and the last one belongs to the box
            objects.append({"box": (left - 1, top - 1, right, bottom), "label": label, "crowd": False, "area": 0.0})
    except Fault as fault:
        return fault
    sides = [root.findtext(f"size/{side}") for side in ("width", "height")]
    whole = [int(side) for side in sides if side and side.strip().isdigit() and int(side)]
    return [str(image.absolute()), Annotated((whole[0], whole[1]) if len(whole) == 2 else None, objects)]


# ---- YOLO


def read_yolo_names(path: Path) -> dict[str, Any]:
    """The content of a data.yaml: {"names": [...], "train": [folder or file, ...], "val": ..., "test": ...}.

    Raises:
        ValueError: it has no names, or a folder does not exist.
    """
    try:
        content = yaml.safe_load(text_of(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    except Fault as fault:
        raise ValueError(str(fault)) from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise ValueError(f"{path}: names must be numbered from 0 without gaps, but are {[*names]}")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path}: it has no names, which YOLO's class numbers need")
    places: dict[str, Any] = {"names": [str(name).strip() for name in names]}
    root = path.parent / str(content.get("path") or "")
    root = root if root.is_dir() else path.parent
    for split in ("train", "val", "test"):
        written = content.get(split) or []
        written = [written] if isinstance(written, str) else written
        if not isinstance(written, list) or not all(isinstance(name, str) for name in written):
            raise ValueError(f"{path}: {split} must be a folder or a list of folders, not {written!r:.60}")
        places[split] = [_yolo_place(path, root, name) for name in written]
    if not places["train"]:
        raise ValueError(f"{path}: it names no train folder")
    return places


def _yolo_place(path: Path, root: Path, name: str) -> Path:
    """A folder of images, or a txt file that lists images, relative to it."""
    for place in (root / name, root / name.removeprefix("../")):  # as Roboflow writes it
        if place.is_dir() or (ending(place) == ".txt" and place.is_file()):
            return place
    raise ValueError(f"{path}: no folder {root / name}")


def read_yolo(path: Path, names: Sequence[str]) -> Reader | None:
    """An image, or each image that a txt file lists, with the boxes in the txt file of its name, beside it or in
    `labels` for `images`; without that file it has no objects. None of other files."""
    values = ["the image", "its objects"]
    if ending(path) == ".txt":
        listed = ((number, _yolo_item(path.parent / line, names)) for number, line in _lines_of(path))
        return Reader(str(path), "line", values, listed)
    if ending(path) not in ENDINGS:
        return None
    return Reader(str(path), "file", values, iter([(1, _yolo_item(path, names))]))


def _yolo_item(path: Path, names: Sequence[str]) -> list[Any] | Fault:
    parts = list(path.absolute().parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    file = Path(*parts).with_suffix(".txt")
    objects = []
    try:
        lines = text_of(file).splitlines() if file.is_file() else []
    except Fault as fault:
        return fault
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        what = f"{file}, line {number}"
        try:
            label, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            return Fault(f"{what} is not a class number and numbers: {line:.60}")
        if not all(map(math.isfinite, values)):
            return Fault(f"{what} has numbers that are not finite: {line:.60}")
        if not 0 <= label < len(names):
            return Fault(f"{what} has class {label}, but data.yaml has the names 0 to {len(names) - 1}")
        if len(values) == 4:
            x, y, width, height = values
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        elif len(values) >= 6 and len(values) % 2 == 0:  # a polygon
            box = (min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2]))
        else:
            return Fault(f"{what} has {len(values)} numbers, but a box has 4, and a polygon an even number from 6 on")
        objects.append({"box": box, "label": names[label], "crowd": False, "area": 0.0, "share": True})
    return [str(path.absolute()), Annotated(None, objects)]


# ---- rows of other files, and checks of all


def read_objects(value: Any, form: str, names: Sequence[str], name: str) -> Annotated:
    """The objects in a column: {"bbox": [...], "category": [...]} as the Hub's image folders have them, or a list of
    {"bbox": ..., "category": ...}. A category is a name, or a number of `names`.

    Raises:
        Fault: they have another form.
    """
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise Fault(f"{name} is not valid JSON: {error}") from None
    if isinstance(value, dict):
        boxes, labels = value.get("bbox", []), value.get("category", value.get("categories", []))
        if not isinstance(boxes, list) or not isinstance(labels, list) or len(boxes) != len(labels):
            raise Fault(f"{name}: bbox and category must be lists of one length")
        value = [{"bbox": box, "category": label} for box, label in zip(boxes, labels, strict=True)]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Fault(f'{name} must be {{"bbox": [...], "category": [...]}} or a list of such objects, not {value!r:.60}')
    objects = []
    for number, item in enumerate(value, 1):
        label = item.get("category", item.get("label"))
        if isinstance(label, int) and not isinstance(label, bool) and names:
            if not 0 <= label < len(names):
                raise Fault(f"{name}: object {number} has category {label}, but there are {len(names)} label_names")
            label = names[label]
        if label is None or label == "":
            raise Fault(f"{name}: object {number} has no category")
        if not isinstance(label, str | int):
            raise Fault(f"{name}: object {number} has a category that is not a name or a number: {label!r:.60}")
        box = corners_of(item.get("bbox", item.get("box")), form, f"{name}: object {number}")
        crowd, area = crowd_and_area(item, f"{name}: object {number}")
        objects.append({"box": box, "label": str(label).strip(), "crowd": crowd, "area": area})
    return Annotated(None, objects)


def crowd_and_area(item: Mapping[str, Any], what: str) -> tuple[bool, float]:
    """Its iscrowd and its area, which is 0 where the file has none. Raises: Fault, they are something else."""
    crowd, area = item.get("iscrowd") or 0, item.get("area") or 0.0
    if crowd not in (0, 1):
        raise Fault(f"{what}: iscrowd must be 0 or 1, not {crowd!r:.60}")
    if not isinstance(area, int | float) or not 0 <= area < math.inf:
        raise Fault(f"{what}: area must be a number of pixels, not {area!r:.60}")
    return bool(crowd), float(area)


def corners_of(values: Any, form: str, what: str) -> Box:
    """Four numbers as corners; `form`: xyxy or xywh. Raises: Fault, they are something else."""
    try:
        a, b, c, d = (float(value) for value in values)
    except (TypeError, ValueError):
        raise Fault(f"{what}: a box must be four numbers, not {values!r:.60}") from None
    if not all(map(math.isfinite, (a, b, c, d))):
        raise Fault(f"{what}: a box must be four finite numbers, not {values!r:.60}")
    return (a, b, c, d) if form == "xyxy" else (a, b, a + c, b + d)


def check_objects(annotated: Annotated, width: int, height: int) -> list[dict[str, Any]]:
    """The objects of an image of this size, with their areas; what is over the edge by rounding is cut off.

    Raises:
        Fault: a box is outside of the image, has no area or its corners swapped, or the image has another size.
    """
    check_size(annotated.size, width, height)
    return [_checked(number, item, width, height) for number, item in enumerate(annotated.objects, 1)]


def check_size(size: tuple[int, int] | None, width: int, height: int) -> None:
    """Raises: Fault, an annotation is for images of another size."""
    if size == (height, width) and width != height:
        raise Fault(
            f"the annotation is for {height} x {width} pixels, but EXIF turns the image to {width} x {height}: "
            "save the image as it is to be seen"
        )
    if size not in (None, (width, height)):
        raise Fault(f"the annotation is for {size} pixels, but the image has {(width, height)}")


def _checked(number: int, item: Mapping[str, Any], width: int, height: int) -> dict[str, Any]:
    if item.get("size"):  # of the mask that the box is taken from
        require_size(item["size"], height, width, item["what"])
    left, top, right, bottom = item["box"]
    if item.get("share"):
        left, top, right, bottom = left * width, top * height, right * width, bottom * height
    shown = f"box {number} ({item['label']}, {left:g} {top:g} {right:g} {bottom:g})"
    if right < left or bottom < top:
        raise Fault(f"{shown} has its corners swapped")
    if right == left or bottom == top:
        raise Fault(f"{shown} has no area")
    over = max(-left, -top, right - width, bottom - height)
    if over > TOLERANCE:
        raise Fault(f"{shown} is outside of the image of {width} x {height} pixels")
    left, top, right, bottom = max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)
    if right <= left or bottom <= top:
        raise Fault(f"{shown} has no area inside of the image")
    area = item["area"] or (right - left) * (bottom - top)
    return {"box": [left, top, right, bottom], "label": item["label"], "crowd": item["crowd"], "area": area}
