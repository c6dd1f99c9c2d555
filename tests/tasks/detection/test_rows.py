"""Images with objects in every form, and what is refused, with file and reason."""

import copy
import json
import logging
import re
from collections import Counter

import pytest
from PIL import Image
from pycocotools import mask

from hftrain.data.several import source_counts
from hftrain.tasks import detection
from hftrain.tasks.detection import DetectionConfig
from hftrain.vision.scenes import compose
from tests.tasks.detection.data import NAMES, SIZE, coco, scene, write_coco, write_images

pytestmark = pytest.mark.unit
SPLITS = {"validation_split": 4, "test_split": 4}


def load(**settings):
    return detection.load_objects(DetectionConfig(**settings), seed=0)


def check(rows, count):
    """The rows are those of the first scenes: their boxes, and the classes by name."""
    found = {row["image"].rpartition("/")[2]: row for split in rows.values() for row in split}
    assert len(found) == count
    for name, row in found.items():
        wanted = [(NAMES[label], [float(side) for side in box]) for label, box in scene(int(name[:3]))[1]]
        assert [(item["label"], item["box"]) for item in row["objects"]] == wanted
        assert (row["width"], row["height"]) == SIZE
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for _, box in wanted]
        assert [item["area"] for item in row["objects"]] == areas


def one_file(folder, content, count=20):
    write_images(folder, count)
    path = folder / "boxes.json"
    path.write_text(json.dumps(content))
    return [str(path)]


def test_a_coco_folder_with_splits(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        rows, names, ids = load(dataset_name=str(write_coco(tmp_path)))
    check(rows, 36)
    assert {name: len(split) for name, split in rows.items()} == {"train": 24, "validation": 6, "test": 6}
    assert names == [*NAMES] and ids == {"red": 1, "green": 3, "blue": 7}
    assert "the 3 category ids from 1 to 7 become the numbers 0 to 2" in caplog.text
    counts = Counter(item["label"] for objects in rows["train"]["objects"] for item in objects)
    shown = ", ".join(f"{name} {counts[name]}" for name in sorted(counts, key=lambda name: (-counts[name], name)))
    assert f"objects of the training rows: {shown}" in caplog.text


def test_the_layout_of_coco_itself(tmp_path):
    (tmp_path / "annotations").mkdir()
    for number, split in enumerate(("train2017", "val2017")):
        write_images(tmp_path / split, 18, 18 * number)
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco(18, 18 * number)))
    rows, _, _ = load(dataset_name=str(tmp_path), test_split=4)
    check(rows, 36)
    assert len(rows["validation"]) == 18


def test_boxes_from_polygons_and_run_lengths(tmp_path):
    content = coco(20)
    for one in content["annotations"][::2]:
        left, top, width, height = one.pop("bbox")
        one["segmentation"] = [[left, top, left + width, top, left + width, top + height, left, top + height]]
    for one in content["annotations"][1::2]:
        left, top, width, height = one.pop("bbox")
        pixels = Image.new("L", SIZE)
        pixels.paste(1, (left, top, left + width, top + height))
        counts, last = [0], 0  # uncompressed: column by column
        for value in [pixels.getpixel((x, y)) for x in range(SIZE[0]) for y in range(SIZE[1])]:
            if value != last:
                counts.append(0)
                last = value
            counts[-1] += 1
        one["segmentation"] = {"size": [SIZE[1], SIZE[0]], "counts": counts}
    rows, _, _ = load(train_file=one_file(tmp_path, content), **SPLITS)
    check(rows, 20)


def test_voc_and_lists_of_names(tmp_path):
    write_images(tmp_path / "JPEGImages", 20)
    (tmp_path / "Annotations").mkdir()
    for number in range(20):
        objects = "".join(
            f"<object><name>{NAMES[label]}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for label, (left, top, right, bottom) in scene(number)[1]
        )
        text = f"<annotation><filename>{number:03}.png</filename>{objects}</annotation>"
        (tmp_path / "Annotations" / f"{number:03}.xml").write_text(text)
    rows, names, ids = load(dataset_name=str(tmp_path), **SPLITS)
    check(rows, 20)
    assert names == sorted(NAMES) and ids == {}
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, numbers in {"train": range(10), "val": range(10, 15), "test": range(15, 20)}.items():
        (lists / f"{split}.txt").write_text("".join(f"{number:03}\n" for number in numbers))
    rows, _, _ = load(dataset_name=str(tmp_path))
    check(rows, 20)
    assert {name: len(split) for name, split in rows.items()} == {"train": 10, "validation": 5, "test": 5}
    (tmp_path / "Annotations" / "003.xml").write_text("<annotation><object>")
    with pytest.raises(ValueError, match=r"train\.txt, line 4: .*003\.xml is not valid XML: no element found"):
        load(dataset_name=str(tmp_path))


def write_yolo(folder, names="[red, green, blue]"):
    for split, first in {"train": 0, "val": 12}.items():
        write_images(folder / "images" / split, 12, first)
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(first, first + 12):
            lines = [
                f"{label} {(left + right) / 2 / SIZE[0]} {(top + bottom) / 2 / SIZE[1]} "
                f"{(right - left) / SIZE[0]} {(bottom - top) / SIZE[1]}\n"
                for label, (left, top, right, bottom) in scene(number)[1]
            ]
            (folder / "labels" / split / f"{number:03}.txt").write_text("".join(lines))
    path = folder / "data.yaml"
    path.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {names}\n")
    return path


def test_yolo(tmp_path, caplog):
    path = write_yolo(tmp_path)
    rows, names, _ = load(dataset_name=str(tmp_path), test_split=3)
    assert names == [*NAMES] and len(rows["validation"]) == 12
    for row in rows["validation"]:
        wanted = scene(int(row["image"][-7:-4]))[1]
        for item, (label, box) in zip(row["objects"], wanted, strict=True):
            assert item["label"] == NAMES[label] and item["box"] == pytest.approx(box, abs=1e-6)
    (tmp_path / "labels" / "train" / "004.txt").unlink()
    with caplog.at_level(logging.WARNING):
        rows, _, _ = load(train_file=[str(path)], test_split=3)
    assert "of 9 images have no objects; they are kept" in caplog.text or "of 3 images have no" in caplog.text
    (tmp_path / "labels" / "train" / "005.txt").write_text("3 0.5 0.5 0.1 0.1\n")
    with pytest.raises(
        ValueError, match=r"labels/train/005\.txt, line 1 has class 3, but data\.yaml has the names 0 to 2"
    ):
        load(dataset_name=str(tmp_path))
    path.write_text(path.read_text().replace("images/val", "images/nothing"))
    with pytest.raises(ValueError, match=r"data\.yaml: no folder .*images/nothing"):
        load(dataset_name=str(tmp_path))


def test_yolo_with_a_list_of_images(tmp_path):
    path = write_yolo(tmp_path / "a b")
    for split, first in {"train": 0, "val": 12}.items():
        lines = [f"./images/{split}/{number:03}.png\n" for number in range(first, first + 12)]
        (path.parent / f"{split}.txt").write_text("\ufeff" + "".join(lines), encoding="utf-8")
    path.write_text("train: train.txt\nval: val.txt\nnames: {0: red, 1: green, 2: blue}\n")
    rows, names, _ = load(dataset_name=str(path.parent), test_split=3)
    assert names == [*NAMES] and [len(rows[split]) for split in ("train", "validation", "test")] == [9, 12, 3]
    (path.parent / "images" / "val" / "015.png").unlink()
    with pytest.raises(ValueError, match=r"val\.txt, line 4: .*015\.png cannot be read: No such file"):
        load(dataset_name=str(path.parent), test_split=3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "labels/train/004.txt",
            b"0 nan 0.5 0.1 0.1",
            r"labels/train/004\.txt, line 1 has numbers that are not finite",
        ),
        ("labels/train/004.txt", b"\xff\xfe0 1", r"labels/train/004\.txt is not UTF-8: save it as UTF-8"),
        ("data.yaml", b"train: images/train\nnames: [r\xf6t]", r"data\.yaml is not UTF-8: save it as UTF-8"),
        ("data.yaml", b"train: 5\nnames: [red]", r"data\.yaml: train must be a folder or a list of folders, not 5"),
    ],
)
def test_bad_files_of_yolo(name, content, message, tmp_path):
    write_yolo(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(dataset_name=str(tmp_path), test_split=3)


def test_images_without_annotations(tmp_path):
    write_images(tmp_path / "images", 4)
    with pytest.raises(ValueError, match="has images, but no file with their objects: add COCO JSON"):
        load(dataset_name=str(tmp_path))
    (tmp_path / "a.xml").write_text("<html/>")
    with pytest.raises(ValueError, match=r"a\.xml is not an annotation of Pascal VOC: its first element is html"):
        load(dataset_name=str(tmp_path))


@pytest.mark.parametrize("form", ["lists", "objects", "corners"])
def test_rows_of_a_table(form, tmp_path):
    write_images(tmp_path / "files", 20)
    lines = []
    for number in range(20):
        boxes = [(NAMES[label], box) for label, box in scene(number)[1]]
        if form != "corners":
            boxes = [(name, [left, top, right - left, bottom - top]) for name, (left, top, right, bottom) in boxes]
        objects = [{"bbox": box, "category": name} for name, box in boxes]
        if form == "lists":
            objects = {"bbox": [box for _, box in boxes], "category": [name for name, _ in boxes]}
        lines.append(json.dumps({"image": f"files/{number:03}.png", "objects": objects}) + "\n")
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    written = {"box_format": "xyxy"} if form == "corners" else {}
    rows, _, _ = load(train_file=[str(tmp_path / "rows.jsonl")], **SPLITS, **written)
    check(rows, 20)


FAULTS = {
    "swapped": ({"bbox": [10, 5, -4, 6]}, r"box 1 \(red, 10 5 6 11\) has its corners swapped"),
    "no area": ({"bbox": [10, 5, 0, 6]}, r"box 1 \(red, 10 5 10 11\) has no area"),
    "outside": ({"bbox": [20, 5, 30, 6]}, r"box 1 \(red, 20 5 50 11\) is outside of the image of 32 x 24 pixels"),
    "three numbers": ({"bbox": [1, 2, 3]}, r"annotation 1: a box must be four numbers, not \[1, 2, 3\]"),
    "not finite": ({"bbox": [1, 2, 3, float("nan")]}, r"annotation 1: a box must be four finite numbers"),
    "category": ({"category_id": 2}, r"annotation 1 has category_id 2, which is not in categories"),
    "image": ({"image_id": 99}, r"annotation 1 is of image_id 99, not there"),
    "no box": ({"bbox": None}, r"annotation 1 has no bbox, and no polygon or run-length encoding"),
    "polygon": (
        {"bbox": None, "segmentation": [[1, 1, 5, 5, 9]]},
        r"annotation 1: a polygon must be an even number of finite numbers, from 6 on, not \[1, 1, 5, 5, 9\]",
    ),
    "encoding": (
        {"bbox": None, "segmentation": {"size": [24, 32], "counts": [5, 5]}},
        r"annotation 1: the counts of a run-length encoding add up to 10, but 24 x 32 pixels are 768",
    ),
    "encoding of another size": (
        {"bbox": None, "segmentation": {"size": [32, 24], "counts": [0, 5, 763]}},
        r"annotation 1 has a mask of 24 x 32 pixels, but the image has 32 x 24",
    ),
    "area": ({"area": "large"}, r"annotation 1: area must be a number of pixels, not 'large'"),
    "crowd": ({"iscrowd": "0"}, r"annotation 1: iscrowd must be 0 or 1, not '0'"),
    "list": ({"image_id": [1]}, r"annotation 1 has no image_id: \{'id': 1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_boxes_are_named_and_counted(name, tmp_path):
    change, message = FAULTS[name]
    content = coco(20)
    content["annotations"][0] |= change
    files = one_file(tmp_path, content)
    with pytest.raises(ValueError, match=rf"boxes\.json, image \d+: .*{message}"):
        load(train_file=files, **SPLITS)
    rows, _, _ = load(train_file=files, **SPLITS, max_bad_rows=1)
    assert len(rows["train"].bad) == 1


def test_a_box_over_the_edge_by_rounding_is_cut_off(tmp_path):
    content = coco(20)
    content["annotations"][0]["bbox"] = [-0.4, 5, 32.8, 6]
    rows, _, _ = load(train_file=one_file(tmp_path, content), **SPLITS)
    row = next(row for split in rows.values() for row in split if row["image"].endswith("000.png"))
    assert row["objects"][0]["box"] == [0, 5, 32, 11]


def test_crowds_are_kept_and_not_learnt(tmp_path):
    content = coco(20)
    content["annotations"][0]["iscrowd"] = 1
    rows, names, _ = load(train_file=one_file(tmp_path, content), **SPLITS)
    examples = {split: detection.make_examples(rows[split], names) for split in rows}
    objects = sum(len(row["objects"]) for split in rows.values() for row in split)
    learnt = sum(len(labels) for split in examples.values() for labels in split.column("labels"))
    assert (objects, learnt) == (30, 29)


def test_images_that_are_damaged_missing_or_there_twice(tmp_path, caplog):
    files = one_file(tmp_path, coco(20))
    (tmp_path / "001.png").unlink()
    (tmp_path / "002.png").write_bytes((tmp_path / "002.png").read_bytes()[:200])
    (tmp_path / "004.png").write_bytes((tmp_path / "003.png").read_bytes())
    with pytest.raises(ValueError) as caught:
        load(train_file=files, **SPLITS)
    assert re.search(r"boxes\.json, image 2: .*001\.png cannot be read: No such file", str(caught.value))
    assert re.search(r"boxes\.json, image 3: .*truncated or corrupt", str(caught.value))
    assert re.search(r"image 5: .*004\.png is the same image as .*003\.png, but has other objects", str(caught.value))


def test_the_same_image_in_two_splits_is_a_leak(tmp_path, caplog):
    folder = write_coco(tmp_path)
    (folder / "valid" / "024.png").write_bytes((folder / "train" / "000.png").read_bytes())
    content = coco(6, 24)
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 24]
    same = [one for one in coco(1)["annotations"]]
    content["annotations"] += [{**one, "id": 900, "image_id": 24} for one in same]
    (folder / "valid" / "_annotations.coco.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        rows, _, _ = load(dataset_name=str(folder))
    assert rows["validation"].leaks.rows == 1
    assert re.search(r"leak: .*valid/024\.png of validation is the image .*train/000\.png of train", caplog.text)


def test_categories_that_are_there_twice(tmp_path):
    content = copy.deepcopy(coco(20))
    content["categories"][2]["name"] = "red"
    with pytest.raises(ValueError, match=r"the category 'red' \(id 7\) is there twice"):
        load(train_file=one_file(tmp_path, content), **SPLITS)


def test_two_files_may_number_their_categories_differently(tmp_path, caplog):
    (first,) = one_file(tmp_path / "a", coco(12), 12)
    write_images(tmp_path / "b", 12, 12)
    content = coco(12, 12, (3, 1, 9))  # red is 3 here, as green in the other file
    content["categories"][2]["name"] = "violet"
    (tmp_path / "b" / "boxes.json").write_text(json.dumps(content))
    rows, names, ids = load(train_file=[f"{first}@2", f"{tmp_path}/b/boxes.json"], **SPLITS)
    assert names == [*NAMES, "violet"] and ids == {"red": 1, "green": 3, "blue": 7, "violet": 9}
    for row in rows["train"]:
        number = int(row["image"][-7:-4])
        known = NAMES if number < 12 else (*NAMES[:2], "violet")
        assert [item["label"] for item in row["objects"]] == [known[label] for label, _ in scene(number)[1]]
    assert source_counts(rows["test"]) == {f"rows of {first}@2": 2, f"rows of {tmp_path}/b/boxes.json": 2}
    content["categories"][2]["id"] = 7
    for one in content["annotations"]:
        one["category_id"] = 7 if one["category_id"] == 9 else one["category_id"]
    (tmp_path / "b" / "boxes.json").write_text(json.dumps(content))
    _, _, ids = load(train_file=[first, f"{tmp_path}/b/boxes.json"], **SPLITS)
    assert ids == {"red": 1, "green": 3, "blue": 7, "violet": 8}
    assert "the category id 7 of 'violet' is that of 'blue' in another file; here it is 8" in caplog.text


@pytest.mark.parametrize("files", [["data.yaml", "more.json"], ["more.json", "data.yaml"], ["data.yaml@2"]])
def test_a_data_yaml_stands_alone(files, tmp_path):
    write_yolo(tmp_path)
    with pytest.raises(ValueError, match=r"data\.yaml.*: a data\.yaml stands alone, without weight or limit"):
        load(train_file=[str(tmp_path / file) for file in files])


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("images", {}, r"boxes\.json: images must be a list, not \{\}"),
        ("annotations", None, r"boxes\.json: annotations must be a list, not None"),
        (
            "categories",
            [{"id": 1, "name": "a", "isthing": "0"}],
            r"isthing of the category 'a' must be 0 or 1",
        ),
        ("categories", [{"id": 1}], r"category 1 must have a number as id, and a name: \{'id': 1\}"),
    ],
)
def test_a_file_that_is_not_as_coco_has_it(part, content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(train_file=one_file(tmp_path, coco(20) | {part: content}), **SPLITS)


def test_images_without_an_id_and_with_that_of_another(tmp_path):
    content = coco(20)
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] > 2]
    content["images"][1]["id"] = content["images"][0]["id"]
    del content["images"][2]["id"]
    content["images"][3] = "003.png"
    files = one_file(tmp_path, content)
    rows, _, _ = load(train_file=files, **SPLITS, max_bad_rows=6)
    bad = [line for split in rows.values() for line in split.bad]
    reasons = ("000.png has the id 0, which", "001.png has the id 0, which", "002.png has no id", "no file_name: '003")
    assert all(any(reason in str(line) for line in bad) for reason in reasons)


def test_an_image_that_exif_turns_and_a_wrong_size(tmp_path):
    files = one_file(tmp_path, coco(20))
    picture = Image.open(tmp_path / "000.png")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "000.png", exif=exif)
    with pytest.raises(ValueError, match=r"for 32 x 24 pixels, but EXIF turns the image to 24 x 32"):
        load(train_file=files, **SPLITS)
    picture.resize((64, 48)).save(tmp_path / "000.png")
    with pytest.raises(ValueError, match=r"the annotation is for \(32, 24\) pixels, but the image has \(64, 48\)"):
        load(train_file=files, **SPLITS)


def test_boxes_of_scenes_are_around_their_masks():
    import numpy as np

    digits = [(np.eye(8), 3)]
    for number in range(5):
        picture, objects = compose(np.random.default_rng(number), digits)
        assert picture.size == (64, 64) and objects
        total = np.zeros((64, 64), int)
        for one in objects:
            pixels = mask.decode(one["segmentation"])
            total += pixels
            assert mask.toBbox(one["segmentation"]).tolist() == one["bbox"] and pixels.sum() == one["area"]
        assert total.max() == 1  # no pixel belongs to two digits
