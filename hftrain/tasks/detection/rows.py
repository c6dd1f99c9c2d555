"""Images with their objects."""

import glob
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.config.sources import read_source
from hftrain.data.lines import Fault
from hftrain.data.names import report_names
from hftrain.data.sources import SPLIT_WORDS, Reader, ending, has_rows, split_of, visible_files
from hftrain.data.splits import load_splits
from hftrain.data.tables import is_saved
from hftrain.tasks.detection.config import DetectionConfig
from hftrain.vision.annotations import (
    Annotated,
    check_objects,
    read_objects,
    read_voc,
    read_yolo,
    read_yolo_names,
)
from hftrain.vision.coco import Categories, read_coco
from hftrain.vision.scenes import scenes
from hftrain.vision.sources import ENDINGS, IMAGE, Contents, beside, files_of, image_patterns, locate, name_leaks

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

# of each object its corners (left, upper, right, lower) in pixels, its class, whether it is a crowd, and its area
OBJECT = pa.struct(
    [("box", pa.list_(pa.float64())), ("label", pa.string()), ("crowd", pa.bool_()), ("area", pa.float64())]
)
YAML = (".yaml", ".yml")
SCHEMA = IMAGE.append(pa.field("objects", pa.list_(OBJECT)))


def load_objects(config: DetectionConfig, seed: int) -> "tuple[dict[str, Rows], list[str], dict[str, int]]":
    """Rows {"content", "image", "width", "height", "objects"} of each split, the names of the classes in order, and
    their numbers by name in a COCO file ({} without one).

    Raises:
        ValueError: rows cannot be used, with their files: images that are missing, truncated or corrupt, or that are
            there again with other objects; boxes outside of their image, without area or with corners swapped.
    """
    if config.built_in:
        config = replace(config, dataset_name=str(scenes()))
    categories, yolo = Categories(), list[str]()
    config = with_files(config, yolo)

    def read_file(path: Path) -> Reader | None:
        if yolo and (reader := read_yolo(path, yolo)):
            return reader
        return read_voc(path) or read_coco(path, config.image_folder, categories)

    def read(values: list[Any], names: list[str]) -> list[Any]:
        form, known = config.box_format, config.label_names
        if not isinstance(values[1], Annotated):
            values[1] = read_objects(values[1], form, known, names[1])
        return [locate(values[0], names[0]), values[1].size, values[1].objects]

    seen = Contents("objects")

    def finish(rows: list[Sequence[Any]]) -> list[Sequence[Any] | Fault]:
        return [row if isinstance(row, Fault) else checked(row) for row in seen.look(rows)]

    rows = load_splits(
        config,
        columns={"image": config.image_column, "objects": config.objects_column},
        seed=seed,
        compare=["content", "objects"],
        read=read,
        schema=SCHEMA,
        reader=read_file,
        endings=ENDINGS,
        resolve=beside,
        finish=finish,
    )
    name_leaks(rows)
    names = class_names(config, rows, [*categories.ids], yolo)
    say_what_is_odd(rows, names, categories.ids)
    return rows, names, categories.ids


def checked(row: Sequence[Any]) -> Sequence[Any] | Fault:
    content, path, width, height, size, objects = row
    try:
        return [content, path, width, height, check_objects(Annotated(size, objects), width, height)]
    except Fault as fault:
        return Fault(f"{path}: {fault}")


def class_names(
    config: DetectionConfig, rows: "Mapping[str, Rows]", defined: Sequence[str], yolo: Sequence[str]
) -> list[str]:
    """The classes in order. Raises: ValueError, a row has another one, or a split has no object."""
    labels = {split: {item["label"] for row in rows[split] for item in row["objects"]} for split in rows}
    names = [*(config.label_names or yolo or defined or sorted(labels["train"]))]
    for split, used in labels.items():
        if strange := sorted(used - set(names)):
            way = "add it to label_names" if config.label_names else "no training row has it: set label_names"
            raise ValueError(f"{split}: the class {strange[0]!r} is not one of {', '.join(names)}; {way}")
        if not used:
            raise ValueError(f"{split}: no image has an object, so there is nothing to learn or to score")
    return names


def say_what_is_odd(rows: "Mapping[str, Rows]", names: Sequence[str], ids: Mapping[str, int]) -> None:
    for split, part in rows.items():
        if empty := sum(not objects for objects in part["objects"]):
            logger.warning("%s: %d of %d images have no objects; they are kept", split, empty, len(part))
    if ids and sorted(ids.values()) != list(range(len(ids))):
        low, high = min(ids.values()), max(ids.values())
        logger.warning(
            "the %d category ids from %d to %d become the numbers 0 to %d", len(ids), low, high, len(ids) - 1
        )
    used = {
        split: Counter(item["label"] for objects in part["objects"] for item in objects) for split, part in rows.items()
    }
    report_names(used["train"], "objects", "the annotations", sum(used.values(), Counter()))
    if missing := [name for name in names if name not in used["train"]]:
        logger.warning("%d classes have no object in the training rows: %s", len(missing), ", ".join(missing[:10]))


# ---- folders


def with_files(config: DetectionConfig, yolo: list[str]) -> DetectionConfig:
    """The settings with the files of the folder or data.yaml that `dataset_name` or `train_file` names; the classes of
    a data.yaml are put into `yolo`. Other data sets are unchanged.

    Raises:
        ValueError: a data.yaml among several data sets, or with a weight or a limit.
    """
    for written in config.train_file or ():
        name = read_source(written).name
        if ending(Path(name)) in YAML and config.train_file != [name]:
            reason = "it is a data set of its own, with splits and numbers of classes"
            raise ValueError(f"{written}: a data.yaml stands alone, without weight or limit, since {reason}")
    source = config.dataset_name if config.train_file is None else config.train_file[0]
    path = Path(source or "").expanduser()
    if config.train_file is None and path.is_dir() and not is_saved(path) and config.dataset_config_name is None:
        listed = next((path / name for name in ("data.yaml", "data.yml") if (path / name).is_file()), None)
        path = listed or path
    if ending(path) in YAML and path.is_file():
        places = read_yolo_names(path)
        yolo += places["names"]
        return files_of(
            config, {split: image_patterns(folders) for split, folders in places.items() if split != "names"}
        )
    if config.train_file is not None or not path.is_dir() or is_saved(path) or config.dataset_config_name is not None:
        return config
    files = visible_files(path)
    lists = [file for file in files if file.parent.parent.name == "ImageSets" and file.stem in SPLIT_WORDS]
    xml = [file for file in files if ending(file) == ".xml"]
    coco = [file for file in files if ending(file) == ".json" and read_coco(file, None, Categories())]
    by_split: dict[str, list[str]] = {}
    if lists:
        for file in lists:
            by_split.setdefault(SPLIT_WORDS[file.stem], []).append(str(file))
    elif coco:
        for file in coco:
            by_split.setdefault(split_of(file.relative_to(path).parts) or "train", []).append(str(file))
    else:
        for folder in sorted({file.parent for file in xml}):
            by_split.setdefault(split_of(folder.relative_to(path).parts) or "train", []).append(
                f"{glob.escape(str(folder))}/*.xml"
            )
    if not by_split and any(ending(file) in ENDINGS for file in files) and not any(map(has_rows, files)):
        raise ValueError(
            f"{path} has images, but no file with their objects: add COCO JSON, XML of Pascal VOC, a "
            "data.yaml of YOLO, or a metadata.jsonl of rows"
        )
    return files_of(config, by_split) if by_split else config
