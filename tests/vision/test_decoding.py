"""Decoding: upright RGB of 8 bits, whatever the file is; what is no picture is refused with the reason."""

import io

import numpy as np
import pytest
from PIL import Image

from hftrain.data.lines import Fault
from hftrain.vision import decode, decoding
from hftrain.vision.decoding import examine
from hftrain.vision.sources import located

pytestmark = pytest.mark.unit

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(width: int = 6, height: int = 4) -> Image.Image:
    """Red above left, green above right, blue below left, white below right."""
    image = Image.new("RGB", (width, height))
    for x in range(width):
        for y in range(height):
            image.putpixel((x, y), ((RED, GREEN), (BLUE, WHITE))[y * 2 // height][x * 2 // width])
    return image


def file_of(image: Image.Image, kind: str = "PNG", **how) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def seen(content: bytes) -> list[tuple[int, ...]]:
    image = decode(content)
    assert image.mode == "RGB"
    right, below = image.width - 1, image.height - 1
    return [image.getpixel(place) for place in ((0, 0), (right, 0), (0, below), (right, below))]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_formats(kind):
    how = {"lossless": True} if kind == "WEBP" else {}
    assert seen(file_of(corners(), kind, **how)) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_turns_it_upright(orientation, turned, tmp_path):
    stored = corners() if turned is None else corners().transpose(turned)
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = orientation
    content = file_of(stored, "PNG", exif=exif)
    assert seen(content) == [RED, GREEN, BLUE, WHITE]
    (tmp_path / "a.png").write_bytes(content)
    known = examine(tmp_path / "a.png")
    assert (known.width, known.height) == (6, 4)


def test_grey_cmyk_and_palettes():
    assert seen(file_of(Image.new("L", (2, 2), 7))) == [(7, 7, 7)] * 4
    assert seen(file_of(Image.new("1", (2, 2), 1))) == [WHITE] * 4
    assert seen(file_of(corners().quantize(8), "GIF")) == [RED, GREEN, BLUE, WHITE]
    cyan = decode(file_of(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95)).getpixel((8, 8))
    assert cyan[0] < 10 and min(cyan[1:]) > 245


def test_transparent_parts_show_white():
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    assert [decode(file_of(image)).getpixel((x, 0)) for x in range(2)] == [WHITE, RED]
    half = Image.new("LA", (1, 1), (0, 128))
    assert abs(decode(file_of(half)).getpixel((0, 0))[0] - 127) <= 1
    palette = corners().quantize(8)
    index = palette.getpixel((0, 0))
    assert seen(file_of(palette, transparency=index))[0] == WHITE


def test_sixteen_bits_become_eight():
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    image = decode(file_of(Image.fromarray(values)))
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


def test_numbers_of_32_bits_are_refused_beyond_16(tmp_path):
    with pytest.raises(Fault, match="numbers of 32 bits, whose range is not known"):
        decode(file_of(Image.fromarray(np.array([[0, 70_000]], np.int32)), "TIFF"))
    assert decode(file_of(Image.fromarray(np.array([[0, 65_535]], np.int32)), "TIFF")).getpixel((1, 0)) == WHITE


def test_an_unknown_orientation_is_none(tmp_path):
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 99
    (tmp_path / "a.png").write_bytes(file_of(corners(), "PNG", exif=exif))
    assert examine(tmp_path / "a.png")[1:] == decode(tmp_path / "a.png").size


def test_floating_point_is_refused():
    with pytest.raises(Fault, match="floating-point numbers"):
        decode(file_of(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_file_is_refused(kind, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    content = file_of(noise, kind)
    path = tmp_path / "a"
    path.write_bytes(content[: len(content) // 2])
    for read in (decode, examine):
        with pytest.raises(Fault, match="truncated or corrupt"):
            read(path)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (8, 1), (1, 3000)])
def test_a_small_or_long_jpeg_is_read(size, tmp_path):
    """A JPEG is examined at an eighth of its size, which must not be nothing."""
    (tmp_path / "a.jpg").write_bytes(file_of(Image.new("RGB", size, RED), "JPEG"))
    assert examine(tmp_path / "a.jpg")[1:] == decode(tmp_path / "a.jpg").size == size


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"<html>404</html>")
    with pytest.raises(Fault, match="not an image"):
        examine(tmp_path / "a.png")
    with pytest.raises(Fault, match="there is no file"):
        decode(tmp_path / "b.png")
    with pytest.raises(Fault, match="cannot be read: No such file"):
        examine(tmp_path / "b.png")


def test_all_images_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "good.png").write_bytes(file_of(corners()))
    files = [str(tmp_path / name) for name in ("none.png", "good.png", "empty.png")]
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 of 3 images cannot be read; the first 2:\n.*none\.png cannot .*\n.*empty"):
        located(files)
    with pytest.raises(ValueError, match=r"^.*none\.png cannot be read: No such file or directory$"):
        located(files[:2])
    assert [path for path, _ in located(files[1:2])] == files[1:2]


def test_a_program_is_not_run(tmp_path):
    """Pillow hands EPS to Ghostscript."""
    (tmp_path / "a.eps").write_bytes(file_of(corners(), "EPS"))
    with pytest.raises(Fault, match="not an image"):
        examine(tmp_path / "a.eps")


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 23)
    with pytest.raises(Fault, match="a decompression bomb"):
        decode(file_of(corners()))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 24)
    decode(file_of(corners()))
