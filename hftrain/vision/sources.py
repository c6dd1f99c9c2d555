"""Where images stand: files in folders by class, paths beside a table, bytes in a columnar file or on the Hub."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.data.files import cache, make_once
from hftrain.data.lines import Fault
from hftrain.data.sources import Reader, ending, visible_files
from hftrain.vision.decoding import Known, examine
from hftrain.vision.index import examine_files, keep

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

# sha256 of the file, its path, pixels of the upright picture
IMAGE = pa.schema([("content", pa.string()), ("image", pa.string()), ("width", pa.int32()), ("height", pa.int32())])
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
REMOTE = re.compile(r"(https?|ftp|s3|gs|hf)://|data:", re.I)


def read_image_file(path: Path) -> Reader | None:
    """An image file as one row, [path, name of its folder]; None of other files."""
    if ending(path) not in ENDINGS:
        return None
    return Reader(
        str(path), "image", ["the image", "its folder"], iter([(1, [path.name, path.absolute().parent.name])])
    )


def beside(file: Path, values: list[Any]) -> list[Any]:
    """The values of a row of `file`, whose first names an image relative to it."""
    return [_beside(file.parent, values[0]), *values[1:]]


def _beside(folder: Path, value: Any) -> Any:
    if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
        value = value["path"]  # as datasets.Image writes one that it did not embed
    if isinstance(value, str) and value and not REMOTE.match(value):
        return str(folder / Path(value).expanduser())
    return value


def locate(value: Any, name: str) -> str:
    """The path of an image: named as such, or its bytes, which are put into the cache; `name` is what to call it.

    Raises:
        Fault: neither, or the image is on the network.
    """
    if isinstance(value, dict):  # of datasets.Image
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
        value = value.encode() if isinstance(value, str) and not Path(value).is_file() else value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        if not value:
            raise Fault(f"{name} is empty")
        return keep(value)
    if not isinstance(value, str) or not value.strip():
        raise Fault(f"{name} is {'null' if value is None else f'no path of an image: {value!r:.60}'}")
    if REMOTE.match(value):
        raise Fault(
            f"{name} is a URL, {value:.80}: only files are read, since what a server sends may differ each time; "
            "download it first"
        )
    return value


def image_files(names: Sequence[str]) -> list[str]:
    """The image files that are named, or stand in a folder that is.

    Raises:
        ValueError: a folder without images.
    """
    files = []
    for name in names:
        if not Path(name).is_dir():
            files.append(name)
            continue
        inside = [str(path) for path in visible_files(Path(name)) if path.suffix.lower() in ENDINGS]
        if not inside:
            raise ValueError(f"no image in {name} (known endings: {', '.join(ENDINGS)})")
        files += inside
    return files


def image_patterns(folders: Sequence[Path]) -> list[str]:
    """A pattern for each ending of images in the folders."""
    endings = {(folder, file.suffix) for folder in folders for file in visible_files(folder) if ending(file) in ENDINGS}
    return [f"{glob.escape(str(folder))}/**/*{suffix}" for folder, suffix in sorted(endings)]


def located(images: Sequence[Any]) -> list[tuple[str, Known]]:
    """The path of each image, named or as its bytes, and what its file holds.

    Raises:
        ValueError: an image that cannot be read, or is on the network.
    """
    known = []
    for number, image in enumerate(images, 1):
        name = image if isinstance(image, str) else f"image {number}"
        try:
            path = locate(image, name)
            known.append((path, examine(Path(path))))
        except Fault as fault:
            raise ValueError(str(fault) if name in str(fault) else f"{name}: {fault}") from None
    return known


class Contents:
    """What images hold: `look` gives each row the content and the size of its image, and refuses an image that it has
    seen with another label. `what`: what the last value of a row is."""

    def __init__(self, what: str = "label") -> None:
        self.what = what
        self.labels: dict[str, tuple[Any, str]] = {}  # content -> label and the path where it was first

    def look(self, rows: Sequence[Sequence[Any]]) -> list[list[Any] | Fault]:
        """Rows (path, ..., label) -> [content, path, width, height, ..., label], or a Fault."""
        looked = zip(rows, examine_files([row[0] for row in rows]), strict=True)
        return [image if isinstance(image, Fault) else self._labelled(row, image) for row, image in looked]

    def _labelled(self, row: Sequence[Any], known: Known) -> list[Any] | Fault:
        path, *rest = row
        label, first = self.labels.setdefault(known.content, (rest[-1], path))
        if _unordered(label) != _unordered(rest[-1]):
            if self.what == "label":
                return Fault(f"the same image as {first}, which has the label {label!r}, not {rest[-1]!r}")
            return Fault(f"{path} is the same image as {first}, but has other {self.what}")
        return [known.content, path, known.width, known.height, *rest]


def _unordered(label: Any) -> Any:
    """A list of names without their order; anything else as it is."""
    names = isinstance(label, list) and all(isinstance(name, str) for name in label)
    return frozenset(label) if names else label


def name_leaks(rows: Mapping[str, Rows]) -> None:
    """Logs an image of each held-out split that leaks, with its path in the training rows."""
    for name, split in rows.items():
        if split.leaks and split.leaks.inputs:
            known = dict(zip(rows["train"]["content"], rows["train"]["image"], strict=True))
            row = next(row for row in split if row["content"] in known)
            logger.warning("leak: %s of %s is the image %s of train", row["image"], name, known[row["content"]])


def digits() -> Path:
    """A folder with the 1,797 digits of 8 x 8 pixels that come with scikit-learn, a folder for each class."""
    folder = cache() / "images" / "digits"
    make_once(folder, lambda stage: _write_digits(stage / "digits"))
    return folder / "digits"


def _write_digits(folder: Path) -> None:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    pictures, classes = load_digits(return_X_y=True)
    for number, (picture, name) in enumerate(zip(pictures, classes, strict=True)):
        (folder / str(name)).mkdir(parents=True, exist_ok=True)
        grey = np.round(picture.reshape(8, 8) * 255 / 16).astype(np.uint8)
        Image.fromarray(grey).save(folder / str(name) / f"{number:04}.png")
