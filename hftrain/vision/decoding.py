"""Image files as upright RGB pictures of 8 bits, with Pillow alone; what is no picture is refused with the reason."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hftrain.data.lines import Fault

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none that runs a program, as EPS does
MAX_PIXELS = 89_478_485  # Pillow warns from here on
ORIENTATION = 0x0112  # of EXIF; from 5 on height and width are exchanged
WHITE = (255, 255, 255, 255)

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `opened` refuses such pictures


class Known(NamedTuple):
    """What is known of an image file: sha256 of its bytes, width and height of the upright picture."""

    content: str
    width: int
    height: int


def decode(source: str | Path | bytes) -> Image.Image:
    """The picture in a file, or in its bytes: RGB, 8 bits, upright as EXIF says.

    Of an animation the first frame. Transparent parts show white; 16 bits become 8; grey, CMYK and palettes become RGB.

    Raises:
        Fault: a file that is missing, truncated, corrupt, no picture, or a decompression bomb.
    """
    with opened(source) as image:
        return _rgb(_eight_bits(ImageOps.exif_transpose(image)))


def read(path: str) -> Image.Image:
    """The picture of an example. Raises: ValueError, the file is not what it was when the rows were read."""
    try:
        return decode(path)
    except Fault as fault:
        raise ValueError(f"{path} has changed since the rows were read: {fault}") from None


def examine(path: Path) -> Known:
    """Reads and decodes the whole file, a JPEG at an eighth of its size. Raises: Fault, as `decode`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Fault(f"{path} cannot be read: {error.strerror}") from None
    with opened(content) as image:
        width, height = image.size
        if image.format != "TIFF" and image.getexif().get(ORIENTATION) in (5, 6, 7, 8):  # Pillow turns a TIFF itself
            width, height = height, width
        image.draft(None, (max(1, width // 8), max(1, height // 8)))
        image.load()
        _eight_bits(image)
        return Known(hashlib.sha256(content).hexdigest(), width, height)


@contextmanager
def opened(source: str | Path | bytes) -> Iterator[Image.Image]:
    """The picture, not yet decoded. What decoding raises inside comes out as a Fault."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except Fault:
        raise
    except FileNotFoundError:
        raise Fault(f"there is no file {source!s}") from None
    except UnidentifiedImageError:
        raise Fault(f"not an image (read are {', '.join(FORMATS)}), or its first bytes are damaged") from None
    except Image.DecompressionBombError:
        raise Fault(f"a decompression bomb, or a picture of more than {MAX_PIXELS:,} pixels: save it smaller") from None
    except Exception as error:  # Pillow's decoders raise what they like
        reason = str(error) or type(error).__name__
        raise Fault(f"truncated or corrupt: {reason}") from None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Of 16 bits the upper 8; Pillow's own conversion would cut off at 255."""
    if image.mode == "F":
        raise Fault("its samples are floating-point numbers, whose range is not known: save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise Fault("its samples are numbers of 32 bits, whose range is not known: save it with 8 or 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image).convert("RGB")
    return image.convert("RGB")
