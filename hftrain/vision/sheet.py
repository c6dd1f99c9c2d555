"""Pictures for people: small ones in a report, many on one sheet."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from hftrain.report.page import Picture

EDGE = 96  # pixels of a thumbnail's longer side
COLUMNS = 8
DRAWN = 384  # pixels at least of an image with boxes, so that words have room
COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#7d3c98", "#b9770e", "#117a65", "#a04000", "#283747")


def thumbnail(image: Image.Image, edge: int = EDGE) -> Picture:
    """The picture as small as a table shows it; one that is smaller is shown in large pixels."""
    shown = enlarged(image, edge)
    shown.thumbnail((edge, edge))
    file = io.BytesIO()
    shown.save(file, "PNG" if image.width * image.height <= EDGE**2 // 4 else "JPEG", quality=80)
    return Picture(file.getvalue())


def draw_boxes(image: Image.Image, boxes: Sequence[Sequence[float]], words: Sequence[str]) -> Image.Image:
    """A copy with boxes (left, upper, right, lower) and words at them, a colour for each first word; small images are
    enlarged."""
    shown = enlarged(image.convert("RGB"), DRAWN)
    times, draw = shown.width / image.width, ImageDraw.Draw(shown)
    line = max(1, round(max(shown.size) / 200))
    for box, text in zip(boxes, words, strict=True):
        colour = COLOURS[sum(text.split()[0].encode()) % len(COLOURS)] if text.split() else COLOURS[0]
        left, top, right, bottom = (value * times for value in box)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=line)
        letters = text.encode("ascii", "replace").decode()  # what Pillow's own letters have
        place = (max(0.0, left), max(0.0, top - 11))
        draw.rectangle(draw.textbbox(place, letters), fill=colour)
        draw.text(place, letters, fill="white")
    return shown


def drawn_names(folder: Path, files: Sequence[str]) -> list[str]:
    """The names in `folder` of pictures drawn from files. Raises: ValueError, two of them have one name."""
    names = [f"{Path(file).stem}.png" for file in files]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"--draw {folder}: two images would be {twice}: give them in two commands")
    return names


def enlarged(image: Image.Image, edge: int) -> Image.Image:
    """A copy whose longer side is near `edge` if it is less than half of that."""
    times = max(1, edge // max(image.size))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def contact_sheet(images: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """The pictures side by side, a caption below each."""
    edge = 2 * EDGE if max(images[0].size) > EDGE else EDGE
    columns = min(COLUMNS, len(images))
    sheet = Image.new("RGB", (columns * (edge + 8), math.ceil(len(images) / columns) * (edge + 24)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = place % columns * (edge + 8) + 4, place // columns * (edge + 24) + 4
        shown = enlarged(image, edge)
        shown.thumbnail((edge, edge))
        sheet.paste(shown, (left, top))
        text = caption.encode("ascii", "replace").decode()  # what Pillow's own letters have
        while text and draw.textlength(text) > edge:
            text = text[:-1]
        draw.text((left, top + edge + 2), text, fill="black")
    return sheet
