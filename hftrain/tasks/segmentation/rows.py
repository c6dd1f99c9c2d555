"""Images with their segments."""

import glob
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.data.lines import Fault
from hftrain.data.media import examine_once
from hftrain.data.names import report_names
from hftrain.data.sources import Reader, ending, split_of, visible_files
from hftrain.data.splits import load_splits
from hftrain.data.tables import is_saved
from hftrain.tasks.segmentation.config import SegmentationConfig
from hftrain.vision.annotations import Annotated, check_size
from hftrain.vision.coco import Categories, coco_content, read_coco
from hftrain.vision.encodings import encode_segmentation
from hftrain.vision.masks import REST, MaskFacts, examine_mask, name_value
from hftrain.vision.panoptic import read_panoptic
from hftrain.vision.scenes import scenes
from hftrain.vision.sources import ENDINGS, IMAGE, Contents, beside, files_of, locate, name_leaks

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

# of each segment its value in the mask, its class, whether it is a crowd, its pixels, and without a mask its encoding
SEGMENT = pa.struct(
    [
        ("value", pa.int64()),
        ("label", pa.string()),
        ("crowd", pa.bool_()),
        ("area", pa.int64()),
        ("counts", pa.string()),
    ]
)
SCHEMA = IMAGE.append(pa.field("mask", pa.string())).append(pa.field("segments", pa.list_(SEGMENT)))
BACKGROUND = "background"
IMAGES, MASK_FOLDERS = "images", ("masks", "labels", "annotations")
MASK_ENDINGS = (".png", ".PNG", ".tif", ".tiff", ".bmp", ".gif")  # none that changes values, as JPEG does


@dataclass(frozen=True)
class Classes:
    """The classes in order, those of them that are objects, and their numbers by name in a COCO file ({} without
    one)."""

    names: list[str]
    things: frozenset[str]
    ids: Mapping[str, int]


def load_segments(config: SegmentationConfig, seed: int) -> "tuple[dict[str, Rows], Classes]":
    """Rows {"content", "image", "width", "height", "mask", "segments"} of each split, and the classes.

    Raises:
        ValueError: rows cannot be used, with their files: images or masks that are missing, damaged or of another size
            than each other; values that are no class; segments that the mask lacks.
    """
    if config.built_in:
        config = replace(config, dataset_name=str(scenes()))
    categories, coco = Categories(), list[str]()
    config = with_files(config)

    def read_file(path: Path) -> Reader | None:
        if reader := read_panoptic(path, config.image_folder, config.mask_folder, categories):
            return reader
        if reader := read_coco(path, config.image_folder, categories):
            coco.append(str(path))
            return reader
        return read_pair(path)

    def read(values: list[Any], names: list[str]) -> list[Any]:
        image, mask, annotated = values[0], values[1], values[2] if len(values) > 2 else None
        if isinstance(mask, Annotated):
            mask, annotated = "", mask
        where = locate(mask, names[1]) if mask != "" else ""
        size, segments = annotated or (None, None)
        return [locate(image, names[0]), size, where, segments]

    seen = Contents("segments")

    def finish(rows: list[Sequence[Any]]) -> list[Any]:
        looked = seen.look(rows)
        paths = [row[5] for row in looked if not isinstance(row, Fault) and row[5]]
        masks = examine_once(paths, paths, lambda path: examine_mask(Path(path)), MaskFacts, "masks")
        facts = iter(masks)
        return [
            row if isinstance(row, Fault) else checked(row, next(facts) if row[5] else None, config) for row in looked
        ]

    rows = load_splits(
        config,
        columns={"image": config.image_column, "mask": config.mask_column},
        seed=seed,
        compare=["content", "segments"],
        read=read,
        schema=SCHEMA,
        reader=read_file,
        endings=ENDINGS,
        resolve=both_beside,
        finish=finish,
    )
    name_leaks(rows)
    background = bool(coco) and config.segmentation != "instance"
    classes = find_classes(config, rows, categories, background)
    say_what_is_odd(rows, classes)
    return rows, classes


def both_beside(file: Path, values: list[Any]) -> list[Any]:
    """The values of a row of `file`, whose first two name an image and its mask relative to it."""
    return [beside(file, [value])[0] for value in values[:2]] + values[2:]


def checked(row: Sequence[Any], facts: MaskFacts | Fault | None, config: SegmentationConfig) -> Sequence[Any] | Fault:
    content, path, width, height, size, mask, segments = row
    try:
        check_size(size, width, height)
        if facts is None:
            return [content, path, width, height, "", encoded(segments, width, height, config)]
        if isinstance(facts, Fault):
            return facts
        if (facts.width, facts.height) != (width, height):
            sizes = f"{facts.width} x {facts.height} pixels, but the image has {width} x {height}"
            raise Fault(f"the mask {mask} has {sizes}")
        areas = {value: area for value, area in facts.values}
        made = labelled(areas, facts.coloured, config) if segments is None else listed(areas, segments, mask)
        return [content, path, width, height, mask, made]
    except Fault as fault:
        return Fault(f"{path}: {fault}")


def encoded(objects: Sequence[Any], width: int, height: int, config: SegmentationConfig) -> list[dict[str, Any]]:
    """The objects of a COCO file as segments. Except for instance segmentation, the other pixels are the background."""
    from pycocotools import mask

    segments = []
    for number, one in enumerate(objects, 1):
        counts = encode_segmentation(one["segmentation"], height, width, one["what"])
        area = int(mask.area({"size": [height, width], "counts": counts.encode()}))
        segments.append({"value": number, "label": one["label"], "crowd": one["crowd"], "area": area, "counts": counts})
    if config.segmentation != "instance":
        segments.append({"value": REST, "label": BACKGROUND, "crowd": False, "area": 0, "counts": ""})
    return segments


def listed(areas: Mapping[int, int], segments: Sequence[Any], mask: str) -> list[dict[str, Any]]:
    """The segments that a panoptic file lists, with their areas in the mask."""
    known = {one["value"] for one in segments}
    if strange := sorted(areas.keys() - known - {0}):
        raise Fault(f"the mask {mask} has the segment {strange[0]}, which segments_info does not list")
    if missing := sorted(known - areas.keys()):
        raise Fault(f"segments_info lists the segment {missing[0]}, which the mask {mask} does not have")
    return [{**one, "area": areas[one["value"]], "counts": ""} for one in segments]


def labelled(areas: Mapping[int, int], coloured: bool, config: SegmentationConfig) -> list[dict[str, Any]]:
    """The classes that a mask has."""
    if config.segmentation != "semantic":
        raise Fault(
            f"a mask of classes does not tell objects apart, which {config.segmentation} segmentation needs: "
            "use COCO files, or --segmentation semantic"
        )
    values = config.label_values or [str(number) for number in range(len(config.label_names))]
    names = dict(zip(map(str.lower, values), config.label_names, strict=True))
    segments = []
    for value, area in areas.items():
        shown = name_value(value, coloured)
        if shown in map(str.lower, config.void_values):
            continue
        if names and shown not in names:
            known = f"{', '.join([*names][:8])}{', ...' if len(names) > 8 else ''}"
            raise Fault(
                f"the mask has {area} pixels of the {'colour' if coloured else 'value'} {shown}, but the classes have "
                f"{known}: add it to label_names and label_values, or to void_values"
            )
        segments.append({"value": value, "label": names.get(shown, shown), "crowd": False, "area": area, "counts": ""})
    return segments


def find_classes(
    config: SegmentationConfig, rows: "Mapping[str, Rows]", categories: Categories, background: bool
) -> Classes:
    """The classes in order. Raises: ValueError, a row has another one, or there are fewer than two for all pixels."""
    used = {split: {one["label"] for row in rows[split]["segments"] for one in row} for split in rows}
    defined = [name for name in categories.ids if config.segmentation != "instance" or name not in categories.stuff]
    values = sorted(used["train"], key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    names = config.label_names or ([BACKGROUND] if background else []) + defined or values
    stuff = {*categories.stuff, BACKGROUND}
    for split, labels in used.items():
        labels = {label for label in labels if config.segmentation != "instance" or label not in stuff}
        if strange := sorted(labels - set(names)):
            raise ValueError(
                f"{split}: the class {strange[0]!r} is not one of {', '.join(names)}: set label_names and label_values"
            )
        if not labels:
            raise ValueError(f"{split}: no image has a segment, so there is nothing to learn or to score")
    if config.segmentation != "instance" and len(names) < 2:
        raise ValueError(
            f"there is only the class {names[0]!r}, and pixels need two. void_values ({', '.join(config.void_values)}) "
            "are left out: if one of them is a class, as 255 in masks of black and white, set --void_values"
        )
    things = frozenset(set(names) - stuff if categories.ids else ())
    return Classes(names, things, dict(categories.ids))


def say_what_is_odd(rows: "Mapping[str, Rows]", classes: Classes) -> None:
    for split, part in rows.items():
        if empty := sum(not segments for segments in part["segments"]):
            logger.warning("%s: %d of %d images have no segments; they are kept", split, empty, len(part))
    used = {
        split: Counter(one["label"] for segments in part["segments"] for one in segments)
        for split, part in rows.items()
    }
    report_names(used["train"], "segments", "the data", sum(used.values(), Counter()))
    if missing := [name for name in classes.names if name not in used["train"]]:
        logger.warning("%d classes have no segment in the training rows: %s", len(missing), ", ".join(missing[:10]))


# ---- folders


def read_pair(path: Path) -> Reader | None:
    """An image of a folder `images` with the mask of its name in a folder `masks` for `images`; None of other files."""
    if ending(path) not in ENDINGS:
        return None
    return Reader(str(path), "file", ["the image", "its mask"], iter([(1, _pair(path))]))


def _pair(path: Path) -> list[Any] | Fault:
    parts = list(path.absolute().parts)
    if IMAGES not in parts:
        ways = f"move it there, or list images and masks in a table ({path.parent}/metadata.jsonl)"
        return Fault(f"{path} is not in a folder named {IMAGES}, beside one named {MASK_FOLDERS[0]}: {ways}")
    place = len(parts) - 1 - parts[::-1].index(IMAGES)
    places = [Path(*parts[:place], name, *parts[place + 1 :]) for name in MASK_FOLDERS]
    masks = [place.with_suffix(suffix) for suffix in MASK_ENDINGS for place in places]
    if mask := next((mask for mask in masks if mask.is_file()), None):
        return [str(path.absolute()), str(mask)]
    return Fault(f"{path} has no mask: there is no file {masks[0]}")


def with_files(config: SegmentationConfig) -> SegmentationConfig:
    """The settings with the files of the folder that `dataset_name` names. Other data sets are unchanged."""
    path = Path(config.dataset_name or "").expanduser()
    if config.train_file is not None or not path.is_dir() or is_saved(path) or config.dataset_config_name is not None:
        return config
    files = visible_files(path)
    listed = [file for file in files if ending(file) == ".json" and coco_content(file)]
    by_split: dict[str, list[str]] = {}
    for file in listed or sorted({file.parent for file in files if ending(file) in ENDINGS and IMAGES in file.parts}):
        split = split_of(file.relative_to(path).parts) or "train"
        if listed:
            by_split.setdefault(split, []).append(str(file))
        else:
            endings = sorted({one.suffix for one in file.iterdir() if ending(one) in ENDINGS})
            by_split.setdefault(split, []).extend(f"{glob.escape(str(file))}/*{suffix}" for suffix in endings)
    return files_of(config, by_split) if by_split else config
