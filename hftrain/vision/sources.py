"""Where images stand: files in folders by class, paths beside a table, bytes in a columnar file or on the Hub."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from hftrain.data import media
from hftrain.data.files import cache, make_once
from hftrain.data.lines import Fault
from hftrain.data.media import Seen
from hftrain.data.media import beside as beside
from hftrain.data.sources import SPLIT_WORDS, Reader, ending, visible_files
from hftrain.vision.config import PlacesConfig
from hftrain.vision.decoding import Known, examine
from hftrain.vision.index import examine_files

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

PlacesT = TypeVar("PlacesT", bound=PlacesConfig)
# sha256 of the file, its path, pixels of the upright picture
IMAGE = pa.schema([("content", pa.string()), ("image", pa.string()), ("width", pa.int32()), ("height", pa.int32())])
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


def read_image_file(path: Path) -> Reader | None:
    """An image file as one row, [path, name of its folder]; None of other files."""
    return media.read_one(path, ENDINGS, "image")


def locate(value: Any, name: str) -> str:
    """The path of an image: named as such, or its bytes, which are put into the cache; `name` is what to call it.

    Raises:
        Fault: neither, or the image is on the network.
    """
    return media.locate(value, name, "images", "an image")


def image_files(names: Sequence[str]) -> list[str]:
    """The image files that are named, or stand in a folder that is.

    Raises:
        ValueError: a folder without images.
    """
    return media.named_files(names, ENDINGS, "image")


def image_patterns(places: Sequence[Path]) -> list[str]:
    """A pattern for each ending of images in the folders among `places`, and the names of the files among them."""
    folders = [place for place in places if place.is_dir()]
    endings = {(folder, file.suffix) for folder in folders for file in visible_files(folder) if ending(file) in ENDINGS}
    patterns = [f"{glob.escape(str(folder))}/**/*{suffix}" for folder, suffix in sorted(endings)]
    return patterns + [glob.escape(str(place)) for place in places if not place.is_dir()]


def files_of(config: PlacesT, by_split: Mapping[str, Sequence[str]]) -> PlacesT:
    """The settings with the files of each split, by a word for it (train, val, ...), in place of `dataset_name`; a file
    that the user gives for a held-out split stays.

    Raises:
        ValueError: no split has files to train on.
    """
    files: dict[str, list[str]] = {}
    for word, names in by_split.items():
        if names:
            files.setdefault(SPLIT_WORDS[word], []).extend(names)
    if "train" not in files:
        raise ValueError(f"{config.trained_on} has no training images, only {', '.join(files)}")
    kept: dict[str, Any] = {
        name: getattr(config, name) or files.get(split)
        for split, name in (("validation", "validation_file"), ("test", "test_file"))
    }
    return replace(config, dataset_name=None, train_file=files["train"], **kept)


def located(images: Sequence[Any]) -> list[tuple[str, Known]]:
    """The path of each image, named or as its bytes, and what its file holds.

    Raises:
        ValueError: an image that cannot be read, or is on the network.
    """
    return media.located(images, "image", locate, lambda path: examine(Path(path)))


class Contents:
    """What images hold: `look` gives each row the content and the size of its image, and refuses an image that it has
    seen with another label. `what`: what the last value of a row is."""

    def __init__(self, what: str = "label") -> None:
        self.seen = Seen(what, "image")

    def look(self, rows: Sequence[Sequence[Any]]) -> list[list[Any] | Fault]:
        """Rows (path, ..., label) -> [content, path, width, height, ..., label], or a Fault."""
        looked = zip(rows, examine_files([row[0] for row in rows]), strict=True)
        return [image if isinstance(image, Fault) else self._labelled(row, image) for row, image in looked]

    def _labelled(self, row: Sequence[Any], known: Known) -> list[Any] | Fault:
        path, *rest = row
        fault = self.seen.contradiction(known.content, rest[-1], path)
        return fault or [known.content, path, known.width, known.height, *rest]


def name_leaks(rows: Mapping[str, Rows]) -> None:
    """Logs an image of each held-out split that leaks, with its path in the training rows."""
    media.name_leaks(rows, "image")


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
