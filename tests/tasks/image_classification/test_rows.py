"""Images in every form, and what is refused, with file and reason."""

import json
import logging
import re
import struct
import zlib

import datasets
import pytest

import hftrain.labels
from hftrain.tasks import image_classification as images
from hftrain.tasks.image_classification import ImageClassificationConfig
from hftrain.vision import read
from tests.tasks.image_classification.pictures import CLASSES, picture, png, write_folder

SPLITS = {"validation_split": 6, "test_split": 6}


def load(**settings):
    return images.load_images(ImageClassificationConfig(**SPLITS | settings), seed=0)


def named(folder, count=30, **changes):
    """A jsonl file that names images beside it; `changes`: row number -> what is otherwise."""
    (folder / "pictures").mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        picture(number).save(folder / "pictures" / f"{number}.png")
        rows.append({"image": f"pictures/{number}.png", "label": CLASSES[number % 3]} | changes.get(f"r{number}", {}))
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_by_class_is_split(tmp_path):
    rows = load(dataset_name=str(write_folder(tmp_path)))
    assert {name: len(split) for name, split in rows.items()} == {"train": 48, "validation": 6, "test": 6}
    for row in (row for split in rows.values() for row in split):
        assert row["label"] == row["image"].split("/")[-2]
        assert (row["width"], row["height"], len(row["content"])) == (12, 10, 64)


def test_a_folder_with_splits(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        write_folder(tmp_path / split, 12, 12 * number)
    rows = load(dataset_name=str(tmp_path))
    assert {name: len(split) for name, split in rows.items()} == {"train": 12, "validation": 12, "test": 12}
    assert {row["image"].split("/")[-3] for row in rows["validation"]} == {"val"}


def test_a_class_may_be_called_train(tmp_path):
    write_folder(tmp_path).joinpath("red").rename(tmp_path / "train")
    names, _ = hftrain.labels.number_classes(load(dataset_name=str(tmp_path)), ImageClassificationConfig())
    assert names == ["blue", "green", "train"]


def test_paths_are_relative_to_their_file(tmp_path, monkeypatch):
    path = named(tmp_path)
    monkeypatch.chdir("/")
    rows = load(train_file=[str(path)])
    assert all(str(tmp_path) in row["image"] for row in rows["train"])
    (tmp_path / "rows.csv").write_text("image,label\n" + "".join(f"pictures/{n}.png,{n % 3}\n" for n in range(30)))
    assert len(load(train_file=[str(tmp_path / "rows.csv")])["train"]) == 18
    (tmp_path / "pictures" / "7.png").unlink()
    with pytest.raises(ValueError, match=r"rows\.csv, line 9: .*pictures/7\.png cannot be read: No such file"):
        load(train_file=[str(tmp_path / "rows.csv")])


def test_the_metadata_of_an_image_folder(tmp_path):
    """As the Hub has it: a file names the images that stand beside it."""
    path = named(tmp_path)
    path.rename(tmp_path / "metadata.jsonl")
    assert len(load(dataset_name=str(tmp_path))["train"]) == 18


@pytest.mark.parametrize("form", ["parquet", "arrow", "paths"])
def test_bytes_in_columns(form, tmp_path):
    write_folder(tmp_path / "files", 30)
    files = sorted((tmp_path / "files").rglob("*.png"))
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=sorted(CLASSES)))
    embedded = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    columns = {
        "image": embedded if form == "parquet" else list(map(str, files)),
        "label": [path.parent.name for path in files],
    }
    data = datasets.Dataset.from_dict(columns, features)
    if form == "parquet":
        data.to_parquet(tmp_path / "rows.parquet")
        rows = load(train_file=[str(tmp_path / "rows.parquet")])
        for path in files:
            path.unlink()  # what is read is a copy
    elif form == "arrow":
        data.map(lambda row: row).save_to_disk(tmp_path / "saved")
        rows = load(dataset_name=str(tmp_path / "saved"))
    else:
        data.cast_column("image", datasets.Image(decode=False)).save_to_disk(tmp_path / "saved")
        rows = load(dataset_name=str(tmp_path / "saved"))
    assert len(rows["train"]) == 18
    for row in rows["train"]:
        pixel = read(row["image"]).getpixel((5, 5))
        assert CLASSES[pixel.index(max(pixel))] == row["label"]


def test_the_built_in_digits():
    rows = images.load_images(ImageClassificationConfig(), seed=0)
    assert sum(map(len, rows.values())) == 1797
    assert not any(rows[name].leaks.inputs for name in ("validation", "test"))
    assert {row["width"] for row in rows["test"]} == {8}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": "pictures/none.png"}, r"rows.jsonl, line 4: .*none.png cannot be read: No such file"),
        ({"image": "https://example.org/cat.jpg"}, "column 'image' is a URL, https://example.org/cat.jpg: only files"),
        ({"image": "iVBORw0KGgo" * 30}, "column 'image' is base64 text, iVBORw0KGgoiVBORw0KGgoiV"),
        ({"image": "data:image/png;base64,iVBORw0KGgo="}, "column 'image' is base64 text, data:image/png;base64,iV"),
        ({"image": None}, "column 'image' is null"),
        ({"image": 7}, "column 'image' is no path of an image: 7"),
        ({"label": None}, "column 'label' is null"),
        ({"image": "pictures/text.png"}, "line 4: not an image"),
        ({"image": "pictures/cut.png"}, "line 4: truncated or corrupt"),
        ({"image": "pictures/empty.png"}, "line 4: not an image .*, or its first bytes are damaged"),
        ({"image": "pictures/bomb.png"}, "line 4: a decompression bomb, or a picture of more than 89,478,485 pixels"),
        ({"image": "pictures/0.png"}, r"line 4: the same image as .*pictures/0.png, which has the label 'red', not"),
    ],
)
def test_each_bad_row_is_named_and_counted(wrong, message, tmp_path):
    path = named(tmp_path, r3=wrong | ({"label": "blue"} if wrong.get("image") == "pictures/0.png" else {}))
    (tmp_path / "pictures" / "text.png").write_text("no picture")
    (tmp_path / "pictures" / "cut.png").write_bytes(png(90)[:200])
    (tmp_path / "pictures" / "empty.png").write_bytes(b"")
    bomb = b"IHDR" + struct.pack(">II", 20_000, 20_000) + png(90)[24:29]  # what it says of its size
    bomb += struct.pack(">I", zlib.crc32(bomb))
    (tmp_path / "pictures" / "bomb.png").write_bytes(png(90)[:12] + bomb + png(90)[33:])
    with pytest.raises(ValueError, match=message):
        load(train_file=[str(path)])
    rows = load(train_file=[str(path)], max_bad_rows=1)
    assert sum(map(len, rows.values())) == 29 and len(rows["train"].bad) == 1


def test_a_damaged_image_of_a_folder_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "red" / "000.png").write_bytes(png(0)[:100])
    with pytest.raises(ValueError, match=r"red/000.png, image 1: truncated or corrupt"):
        load(dataset_name=str(tmp_path))
    picture(0).save(tmp_path / "red" / "000.png")  # mended: not remembered as damaged
    assert len(load(dataset_name=str(tmp_path))["train"]) == 48


def test_equal_images_in_two_splits_are_a_leak(tmp_path, caplog):
    write_folder(tmp_path / "train", 12)
    write_folder(tmp_path / "validation", 12, 30)
    write_folder(tmp_path / "test", 12, 9)  # three of them are the last of train
    with caplog.at_level(logging.WARNING, "hftrain"):
        rows = load(dataset_name=str(tmp_path))
    assert rows["test"].leaks is not None and rows["test"].leaks.rows == 3
    assert re.search(r"leak: .*/test/(\w+/0..).png of test is the image .*/train/\1.png of train", caplog.text)


def test_equal_images_stay_together(tmp_path):
    for name in ("a", "b"):
        write_folder(tmp_path / name / "x", 30)
    rows = load(train_file=[str(tmp_path / "a" / "x"), str(tmp_path / "b" / "x")])
    sides = {name: {row["content"] for row in split} for name, split in rows.items()}
    assert not sides["train"] & (sides["validation"] | sides["test"])


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.xyz").write_text("")
    with pytest.raises(ValueError, match=r"has no data files \(known endings: .*, jpg, jpeg, png"):
        load(train_file=[str(tmp_path)])


def test_a_folder_by_a_relative_name(tmp_path, monkeypatch):
    write_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    assert len(load(dataset_name="./photos")["train"]) == 48
    monkeypatch.chdir(tmp_path / "photos")
    rows = load(dataset_name=".")["train"]
    assert {row["label"] for row in rows} == {"red", "green", "blue"}


def test_a_folder_around_the_splits(tmp_path, caplog):
    """As an archive is often unpacked; an image outside of the classes is left out, by name."""
    for number, split in enumerate(("train_set", "test_set")):
        write_folder(tmp_path / "photos-1.0" / split, 12, 12 * number)
    picture(90).save(tmp_path / "photos-1.0" / "overview.png")
    rows = load(dataset_name=str(tmp_path))
    assert len(rows["test"]) == 12 and len(rows["train"]) + len(rows["validation"]) == 12
    assert "1 files are not read: photos-1.0/overview.png" in caplog.text


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("train/{}.png", r"folders of splits \(train\) without a folder for each class"),
        ("{}.png", "no folder for each class"),
        ("{label}/2021/{}.png", "is too deep in"),
    ],
)
def test_folders_without_classes_are_refused(place, message, tmp_path):
    for number in range(9):
        file = tmp_path / place.format(number, label=CLASSES[number % 3])
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(file)
    with pytest.raises(ValueError, match=message):
        load(dataset_name=str(tmp_path))


def test_a_class_behind_a_link(tmp_path):
    write_folder(tmp_path / "there")
    (tmp_path / "here").mkdir()
    for label in CLASSES:
        (tmp_path / "here" / label).symlink_to(tmp_path / "there" / label)
    (tmp_path / "here" / "red" / "again").symlink_to(tmp_path / "here")  # a circle
    assert len(load(dataset_name=str(tmp_path / "here"))["train"]) == 48


def test_labels_in_another_order_are_the_same(tmp_path):
    path = named(tmp_path)
    rows = [json.loads(line) | {"label": ["a", "b"]} for line in path.read_text().splitlines()]
    again = rows[0] | {"label": ["b", "a"]}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, again]))
    assert len(load(train_file=[str(path)], problem_type="multi_label_classification")["train"]) > 0
