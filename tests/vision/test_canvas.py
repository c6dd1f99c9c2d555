"""Images with boxes: a marked pixel is where the box says, and pixels are those of the reference processors."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from hftrain.vision import canvas as canvases
from hftrain.vision.canvas import Canvas, Jitter

pytestmark = pytest.mark.unit
MARK = (255, 0, 0)


def marked(width=60, height=40, box=(20, 10, 32, 18)):
    """A grey picture with a box full of red."""
    image = Image.new("RGB", (width, height), (90, 90, 90))
    image.paste(MARK, box)
    return image, np.array([box], float)


def red(image):
    """The box around the red pixels."""
    values = np.asarray(image).astype(int)
    rows, columns = np.nonzero(values[..., 0] - values[..., 1] > 100)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def check(image, boxes, within=1.01):
    assert len(boxes) == 1
    np.testing.assert_allclose(red(image), boxes[0], atol=within)


def test_mirror():
    image, boxes = canvases.mirror(*marked())
    assert boxes.tolist() == [[28, 10, 40, 18]]
    check(image, boxes, 0)


@pytest.mark.parametrize(
    "part", [(0, 0, 60, 40), (10, 5, 50, 30), (25, 0, 55, 20), (-30, -20, 90, 60), (-7, 3, 40, 70)]
)
def test_windows(part):
    image, boxes, kept = canvases.window(*marked(), part)
    assert kept.tolist() == [0] and image.size == (part[2] - part[0], part[3] - part[1])
    check(image, boxes, 0)


def test_a_window_leaves_out_what_is_hardly_visible():
    _, boxes, kept = canvases.window(*marked(), (30, 0, 60, 40))
    assert not len(boxes) and not len(kept)
    _, boxes, _ = canvases.window(*marked(), (28, 0, 60, 40))
    assert boxes.tolist() == [[0, 10, 4, 18]]


def test_mosaics():
    np.random.seed(0)
    seen = set()
    for _ in range(40):
        four = [(Image.new("RGB", (60, 40)), np.zeros((0, 4))) for _ in range(4)]
        place = np.random.randint(4)
        four[place] = marked(*((60, 40) if place == 0 else (120, 80)), (20, 10, 52, 38))
        image, boxes, kept = canvases.mosaic(four)
        assert image.size == (60, 40) and kept.tolist() in ([], [0])
        if len(boxes) and (boxes[0, 2:] - boxes[0, :2]).min() > 4:
            seen.add(place)
            check(image, boxes, 1.6)  # halved
    assert seen == {0, 1, 2, 3}


def test_labels_stay_with_their_boxes():
    """Of a mosaic, scaled and mirrored: the red box has the label of red, wherever it lands."""
    vary = Jitter(mosaic=1.0, scales=(0.5, 2.0), flip=0.5)
    image, boxes = marked(60, 40, (5, 5, 55, 35))
    others = [Image.new("RGB", (60, 40), (0, 0, 200)), np.array([[0, 0, 60, 40]], float), np.array([7])]
    found = 0
    for seed in range(30):
        np.random.seed(seed)
        picture, kept_boxes, kept, joined = vary(image, boxes, lambda: tuple(others))
        labels = np.concatenate([np.array([3]), *joined])[kept]
        assert len(labels) == len(kept_boxes)
        for box, label in zip(kept_boxes.round().astype(int), labels, strict=True):
            x, y = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
            colour = picture.getpixel((min(int(x), picture.width - 1), min(int(y), picture.height - 1)))
            assert (colour[0] > colour[2]) == (label == 3)
            found += 1
    assert found > 60


SETTINGS = {
    "rt_detr": (
        {"do_resize": True, "size": {"height": 64, "width": 64}, "do_normalize": False},
        "RTDetrImageProcessorPil",
    ),
    "detr": (
        {
            "size": {"max_height": 64, "max_width": 64},
            "pad_size": {"height": 64, "width": 64},
            "do_pad": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "do_normalize": True,
        },
        "DetrImageProcessorPil",
    ),
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("size", [(50, 80), (101, 37), (64, 64), (20, 200)])
def test_pixels_are_those_of_the_reference(kind, size, tmp_path):
    settings, name = SETTINGS[kind]
    draw = np.random.default_rng(0)
    image = Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).resize(size)
    reference = getattr(transformers, name)(**settings)(image, return_tensors="pt")
    canvas = Canvas(settings)
    picture, shown = canvas.place(image)
    ours = canvas.tensor(picture)
    grey = 1 / 255 / (min(settings["image_std"]) if settings["do_normalize"] else 1)
    assert ours.shape == reference["pixel_values"][0].shape
    assert (ours - reference["pixel_values"][0]).abs().max() <= grey * 1.01
    if kind == "detr":
        assert torch.equal(canvas.mask(ours, shown), reference["pixel_mask"][0].long())
    canvas.save_pretrained(tmp_path)
    again = getattr(transformers, name).from_pretrained(tmp_path)(image, return_tensors="pt")
    assert torch.equal(again["pixel_values"], reference["pixel_values"])
