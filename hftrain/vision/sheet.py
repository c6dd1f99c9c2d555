"""Pictures for people: small ones in a report, many on one sheet."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from hftrain.report.page import Picture
from hftrain.vision.masks import VOID

EDGE = 96  # pixels of a thumbnail's longer side
COLUMNS = 8
DRAWN = 384  # pixels at least of an image with boxes, so that words have room
LINES = 16  # of words that an image with boxes or masks has room for: they are read in its thumbnail too
TINT = 0.5  # share of the colour of a mask
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
        _write(draw, shown, (left, top - max(shown.size) / LINES), text, colour)
    return shown


def _write(
    draw: ImageDraw.ImageDraw,
    shown: Image.Image,
    place: tuple[float, float],
    text: str,
    colour: str | tuple[int, ...],
) -> None:
    """Words near `place`, wholly in the picture where they are not wider."""
    font = ImageFont.load_default(max(11.0, max(shown.size) / LINES))
    letters = text.encode("ascii", "replace").decode()  # what Pillow's own letters have
    ends = draw.textbbox((0, 0), letters, font=font)[2:]
    left, top = (max(0.0, min(start, edge - end)) for start, edge, end in zip(place, shown.size, ends, strict=True))
    draw.rectangle(draw.textbbox((left, top), letters, font=font), fill=colour)
    draw.text((left, top), letters, fill="white", font=font)


def pngs_of(files: Sequence[str], option: str, folder: Path) -> list[Path]:
    """The files for pictures of `files` in `folder`, which is made: a.png for a.jpg, but a.jpg.png and a.tif.png if
    there are both. Raises: ValueError, two have one name."""
    stems = Counter(Path(file).stem for file in files)
    names = [f"{Path(file).stem if stems[Path(file).stem] == 1 else Path(file).name}.png" for file in files]
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise ValueError(f"{option} {folder}: two images would be {twice}: give them in two commands")
    folder.mkdir(parents=True, exist_ok=True)
    return [folder / name for name in names]


def draw_masks(image: Image.Image, masks: Sequence[np.ndarray], words: Sequence[str]) -> Image.Image:
    """A copy with (H, W) masks over it and words in them, a colour for each first word, another if one before has
    it; small images are enlarged."""
    values = np.asarray(image.convert("RGB")).astype(np.float32)
    taken = [sum(text.split()[:1][0].encode()) if text.split() else 0 for text in words]
    colours = [
        ImageColor.getrgb(COLOURS[(number + taken[:place].count(number)) % len(COLOURS)])
        for place, number in enumerate(taken)
    ]
    for mask, colour in zip(masks, colours, strict=True):
        values[mask] = (1 - TINT) * values[mask] + TINT * np.array(colour, np.float32)
    shown = enlarged(Image.fromarray(values.round().astype(np.uint8)), DRAWN)
    times, draw = shown.width / image.width, ImageDraw.Draw(shown)
    for mask, text, colour in zip(masks, words, colours, strict=True):
        if mask.any():
            rows, columns = np.nonzero(mask)
            middle = len(rows) // 2  # of the pixels in reading order: it belongs to the mask
            place = (float(columns[middle]) * times, float(rows[middle]) * times)
            _write(draw, shown, place, text, colour)
    return shown


def draw_marks(image: Image.Image, marks: Mapping[str, Any], names: Mapping[int, str]) -> Image.Image:
    """The picture of an example with what is learnt of its places: boxes (N, 4) as shares (centre x, centre y, width,
    height), masks (N, H, W), both with class_labels (N,), or labels (H, W) of pixels, with 255 for void."""
    words = [str(names.get(int(label), label)) for label in marks.get("class_labels", ())]
    if "boxes" in marks and len(words):
        width, height = image.size
        if "pixel_mask" in marks:  # shares are those of the image, which has an empty margin
            width, height = (int(marks["pixel_mask"][0].any(axis).sum()) for axis in (0, 1))
        x, y, wide, high = (marks["boxes"].numpy() * [width, height, width, height]).T
        return draw_boxes(
            image, np.stack([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2], axis=1).tolist(), words
        )
    if "masks" in marks and len(words):
        return draw_masks(image, marks["masks"].numpy().astype(bool), words)
    if "labels" in marks:
        labels = marks["labels"].numpy()
        classes = [label for label in np.unique(labels).tolist() if label != VOID]
        return draw_masks(image, [labels == label for label in classes], [str(names.get(c, c)) for c in classes])
    return image


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
