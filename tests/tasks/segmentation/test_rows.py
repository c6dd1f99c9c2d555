"""Images with segments in every form, and what is refused, with file and reason."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from hftrain.tasks import segmentation
from hftrain.tasks.segmentation import SegmentationConfig
from hftrain.tasks.segmentation.examples import map_of
from tests.tasks.detection.data import NAMES, SIZE, scene, write_images
from tests.tasks.segmentation.data import (
    COLOURS,
    labels_of,
    objects_with_masks,
    write_folders,
    write_objects,
    write_panoptic,
)

pytestmark = pytest.mark.unit
SPLITS = {"validation_split": 4, "test_split": 4}
CLASSES = ["ground", *NAMES]


def load(**settings):
    return segmentation.load_segments(SegmentationConfig(**settings), seed=0)


def check_labels(rows, classes, count=36, kind="semantic"):
    """The pixels of each image have the classes of its scene."""
    seen = 0
    for split in rows.values():
        for example, row in zip(segmentation.make_examples(split, classes, kind), split, strict=True):
            labels = np.array([-1, *example["labels"]])[map_of(example)]
            np.testing.assert_array_equal(labels, labels_of(int(row["image"].rpartition("/")[2][:3])))
            seen += 1
    assert seen == count


@pytest.mark.parametrize("form", ["grey", "indexed", "colour"])
def test_folders_of_images_and_masks(form, tmp_path):
    values = {"label_values": [*COLOURS]} if form == "colour" else {}
    rows, classes = load(dataset_name=str(write_folders(tmp_path, form)), label_names=CLASSES, **values)
    assert classes.names == CLASSES and not classes.things
    check_labels(rows, classes)


def test_classes_without_names_are_the_values(tmp_path):
    rows, classes = load(dataset_name=str(write_folders(tmp_path)))
    assert classes.names == ["0", "1", "2", "3"]
    check_labels(rows, classes)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_rows_with_paths(form, tmp_path):
    write_folders(tmp_path)
    pairs = [
        (f"{split}/images/{n:03}.png", f"{split}/masks/{n:03}.png") for split, n in [("train", i) for i in range(20)]
    ]
    if form == "jsonl":
        text = "".join(json.dumps({"image": image, "mask": mask}) + "\n" for image, mask in pairs)
    else:
        text = "image,mask\n" + "".join(f"{image},{mask}\n" for image, mask in pairs)
    (tmp_path / f"rows.{form}").write_text(text)
    rows, classes = load(train_file=[str(tmp_path / f"rows.{form}")], **SPLITS)
    check_labels(rows, classes, 20)


@pytest.mark.parametrize("form", ["polygon", "counts", "rle"])
def test_objects_of_coco_files(form, tmp_path):
    write_images(tmp_path, 20)
    (tmp_path / "objects.json").write_text(json.dumps(objects_with_masks(20, form=form)))
    files = {"train_file": [str(tmp_path / "objects.json")], **SPLITS}
    rows, classes = load(**files)
    assert classes.names == ["background", *NAMES] and classes.things == {*NAMES}
    check_labels(rows, classes, 20)
    rows, classes = load(segmentation="instance", **files)
    assert classes.names == [*NAMES] and classes.ids == {"red": 1, "green": 3, "blue": 7}
    for row in (row for split in rows.values() for row in split):
        wanted = [
            (NAMES[label], (box[2] - box[0]) * (box[3] - box[1])) for label, box in scene(int(row["image"][-7:-4]))[1]
        ]
        assert [(one["label"], one["area"]) for one in row["segments"]] == wanted


def test_panoptic_files(tmp_path):
    rows, classes = load(dataset_name=str(write_panoptic(tmp_path)), segmentation="panoptic")
    assert classes.names == [*NAMES, "ground"] and classes.things == {*NAMES}
    for split in rows.values():
        for example, row in zip(segmentation.make_examples(split, classes, "panoptic"), split, strict=True):
            number = int(row["image"][-7:-4])
            wanted = np.where(labels_of(number) == 0, 3, labels_of(number).astype(int) - 1)
            np.testing.assert_array_equal(np.array([-1, *example["labels"]])[map_of(example)], wanted)
            assert len(row["segments"]) == 1 + len(scene(number)[1])
    rows, classes = load(dataset_name=str(tmp_path), segmentation="instance")
    assert classes.names == [*NAMES]


def test_void_pixels_have_no_class(tmp_path):
    rows, classes = load(dataset_name=str(write_folders(tmp_path)), void_values=["0"])
    assert classes.names == ["1", "2", "3"]
    example = segmentation.make_examples(rows["train"], classes, "semantic")[0]
    np.testing.assert_array_equal(map_of(example) == 0, labels_of(0) == 0)


def damage(folder, fault):
    mask = folder / "train" / "masks" / "003.png"
    if fault == "size":
        Image.fromarray(np.zeros((24, 31), np.uint8)).save(mask)
    elif fault == "missing":
        mask.unlink()
    elif fault == "truncated":
        mask.write_bytes(mask.read_bytes()[:50])
    elif fault == "nothing":
        mask.write_bytes(b"")
    elif fault == "value":
        Image.fromarray(labels_of(3) + np.uint8(9)).save(mask)
    else:
        Image.fromarray(labels_of(3)).save(mask, "JPEG")


FAULTS = {
    "size": r"the mask .*003\.png has 31 x 24 pixels, but the image has 32 x 24",
    "missing": r"003\.png has no mask: there is no file .*masks/003\.png",
    "truncated": r"the mask .*masks/003\.png: truncated or corrupt",
    "nothing": r"the mask .*masks/003\.png: not an image",
    "value": r"pixels of the value 9, but the classes have 0, 1, 2, 3: add it to label_names",
    "lossy": r"003\.png is a JPEG, which changes values: save masks as PNG",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_masks_are_named_and_counted(fault, tmp_path):
    folder = write_folders(tmp_path)
    damage(folder, fault)
    with pytest.raises(ValueError, match=FAULTS[fault]):
        load(dataset_name=str(folder), label_names=CLASSES)
    rows, _ = load(dataset_name=str(folder), label_names=CLASSES, max_bad_rows=1)
    assert len(rows["train"]) == 23 and len(rows["train"].bad) == 1


def test_a_colour_that_is_no_class(tmp_path):
    folder = write_folders(tmp_path, "colour")
    with pytest.raises(ValueError, match=r"768 pixels|pixels of the colour #0000c8, but the classes have #000000"):
        load(dataset_name=str(folder), label_names=CLASSES[:3], label_values=[*COLOURS[:3]])


OF_OBJECTS = {
    "outside": (
        {"segmentation": [[0, 0, 40, 0, 40, 5]]},
        r"annotation 1 has a polygon that reaches 8 pixels over the edge",
    ),
    "size": (
        {"segmentation": {"size": [10, 10], "counts": [50, 50]}},
        r"a mask of 10 x 10 pixels, but the image has 32",
    ),
    "nothing": ({"segmentation": []}, r"annotation 1 has no polygon or run-length encoding"),
    "empty": ({"segmentation": {"size": [24, 32], "counts": [768]}}, r"annotation 1 has an empty mask"),
}


@pytest.mark.parametrize("fault", OF_OBJECTS)
def test_bad_objects_are_named(fault, tmp_path):
    change, message = OF_OBJECTS[fault]
    write_images(tmp_path, 20)
    content = objects_with_masks(20)
    content["annotations"][0] |= change
    (tmp_path / "objects.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load(train_file=[str(tmp_path / "objects.json")], **SPLITS)


@pytest.mark.parametrize("missing", ["in the list", "in the mask"])
def test_segments_that_do_not_fit_their_mask(missing, tmp_path):
    folder = write_panoptic(tmp_path)
    content = json.loads((folder / "train.json").read_text())
    segments = content["annotations"][0]["segments_info"]
    if missing == "in the list":
        segments.pop(0)
        message = r"has the segment 70000, which segments_info does not list"
    else:
        segments.append({"id": 5, "category_id": 1})
        message = r"lists the segment 5, which the mask .* does not have"
    (folder / "train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load(dataset_name=str(folder), segmentation="panoptic")


OF_PANOPTIC = {
    "null": ({"segments_info": None}, r"000\.png: segments_info must be a list, not None"),
    "id": ({"segments_info": [{"category_id": 9}]}, r"000\.png: segment 1 has no number as id: \{'category_id': 9\}"),
    "twice": ({"segments_info": [{"id": 5, "category_id": 9}] * 2}, r"000\.png: segment 5 is there twice"),
    "category": ({"segments_info": [{"id": 5, "category_id": 4}]}, r"000\.png: segment 5 has category_id 4, which is"),
    "name": ({"file_name": 7}, r"000\.png: file_name of its mask is not a name: 7"),
    "image": ({"image_id": 1}, r"000\.png has no annotation\n.*001\.png: it has 2 annotations"),
}


@pytest.mark.parametrize("fault", OF_PANOPTIC)
def test_bad_panoptic_annotations_are_named(fault, tmp_path):
    change, message = OF_PANOPTIC[fault]
    folder = write_panoptic(tmp_path)
    content = json.loads((folder / "train.json").read_text())
    content["annotations"][0] |= change
    (folder / "train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load(dataset_name=str(folder), segmentation="panoptic")


def test_masks_of_other_endings(tmp_path):
    folder = write_folders(tmp_path)
    for file in [*folder.glob("*/masks/*.png")][::2]:
        file.rename(file.with_suffix(".PNG"))
    assert load(dataset_name=str(folder))[1].names == ["0", "1", "2", "3"]


def test_masks_of_classes_do_not_tell_objects_apart(tmp_path):
    with pytest.raises(ValueError, match="does not tell objects apart, which panoptic segmentation needs"):
        load(dataset_name=str(write_folders(tmp_path)), segmentation="panoptic")


def test_black_and_white_masks(tmp_path):
    folder = write_folders(tmp_path)
    for file in folder.glob("*/masks/*.png"):
        Image.fromarray(np.where(np.asarray(Image.open(file)) > 0, 255, 0).astype(np.uint8)).save(file)
    with pytest.raises(ValueError, match=re.escape("void_values (255) are left out: if one of them is a class")):
        load(dataset_name=str(folder))
    assert load(dataset_name=str(folder), void_values=[])[1].names == ["0", "255"]


def test_a_coco_folder_with_splits(tmp_path):
    rows, classes = load(dataset_name=str(write_objects(tmp_path)))
    assert {name: len(split) for name, split in rows.items()} == {"train": 24, "validation": 6, "test": 6}
    check_labels(rows, classes)
    assert rows["train"][0]["width"] == SIZE[0]
