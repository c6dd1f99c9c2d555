"""Small pictures whose class is easy to see, in every form that data come in."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("red", "green", "blue")


def picture(number: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """Mostly of the colour of class `number % 3`; no two are equal."""
    values = np.random.default_rng(number).integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
    values[..., number % 3] += 120
    return Image.fromarray(values)


def png(number: int) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


def write_folder(folder: Path, count: int = 60, first: int = 0) -> Path:
    """FOLDER/CLASS/image."""
    for number in range(first, first + count):
        place = folder / CLASSES[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number:03}.png")
    return folder
