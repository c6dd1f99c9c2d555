"""Operations on a picture that leave its class as it is, each with a strength: those of AutoAugment and its heirs.

The ranges are those of TrivialAugment (arXiv 2103.10158, table 1, wide) at strength 1.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps

GREY = (128, 128, 128)

Operation = Callable[[Image.Image, float], Image.Image]


def shear_x(image: Image.Image, strength: float) -> Image.Image:
    """Rows are shifted, the middle one not; by up to 0.99 of their distance from it."""
    slope = 0.99 * strength
    return _affine(image, (1, slope, -slope * image.height / 2, 0, 1, 0))


def shear_y(image: Image.Image, strength: float) -> Image.Image:
    slope = 0.99 * strength
    return _affine(image, (1, 0, 0, slope, 1, -slope * image.width / 2))


def translate_x(image: Image.Image, strength: float) -> Image.Image:
    """By up to a third of the width."""
    return _affine(image, (1, 0, strength * image.width / 3, 0, 1, 0))


def translate_y(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, strength * image.height / 3))


def rotate(image: Image.Image, strength: float) -> Image.Image:
    """By up to 135 degrees."""
    return image.rotate(135 * strength, Image.Resampling.BILINEAR, fillcolor=GREY)


def brightness(image: Image.Image, strength: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1 + 0.99 * strength)


def colour(image: Image.Image, strength: float) -> Image.Image:
    """Saturation: at -1 nearly grey."""
    return ImageEnhance.Color(image).enhance(1 + 0.99 * strength)


def contrast(image: Image.Image, strength: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(1 + 0.99 * strength)


def sharpness(image: Image.Image, strength: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(1 + 0.99 * strength)


def posterize(image: Image.Image, strength: float) -> Image.Image:
    """Down to 2 bits."""
    return ImageOps.posterize(image, 8 - round(6 * abs(strength)))


def solarize(image: Image.Image, strength: float) -> Image.Image:
    """Inverts what is brighter than a limit."""
    return ImageOps.solarize(image, 256 - round(255 * abs(strength)))


def autocontrast(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.equalize(image)


def identity(image: Image.Image, strength: float) -> Image.Image:
    return image


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


OPERATIONS: tuple[Operation, ...] = (
    identity,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    rotate,
    brightness,
    colour,
    contrast,
    sharpness,
    posterize,
    solarize,
    autocontrast,
    equalize,
)
