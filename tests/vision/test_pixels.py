"""Pixels equal those of transformers' processors to one grey level, and what is saved gives the same."""

import json

import numpy as np
import pytest
import transformers
from PIL import Image

from hftrain.vision import Pixels
from hftrain.vision.pixels import FILE, load_settings

pytestmark = pytest.mark.unit

SETTINGS = {
    "vit": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    "vit_number": ("ViTImageProcessorPil", {"size": 24, "resample": 3}),
    "siglip": ("SiglipImageProcessorPil", {"size": {"height": 48, "width": 48}}),
    "dinov2": ("BitImageProcessorPil", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}),
    "clip": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "convnext": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_pct": 0.875}),
    "convnext_large": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 384}}),
}


def picture(width: int, height: int) -> Image.Image:
    """Smooth, with noise."""
    draw = np.random.default_rng(3)
    ramp = np.linspace(0, 200, width * height * 3).reshape(height, width, 3)
    return Image.fromarray((ramp + draw.integers(0, 55, ramp.shape)).astype(np.uint8))


@pytest.mark.parametrize("size", [(50, 70), (70, 50), (20, 20), (64, 33)])
@pytest.mark.parametrize("name", SETTINGS)
def test_equal_to_the_reference(name, size, tmp_path):
    kind, settings = SETTINGS[name]
    processor = getattr(transformers, kind)(**settings)
    processor.save_pretrained(tmp_path)
    read = load_settings(str(tmp_path))
    assert read is not None
    pixels, image = Pixels(read), picture(*size)
    wanted = processor(image, return_tensors="pt")["pixel_values"][0]
    found = pixels.tensor(pixels.fit(image))
    assert found.shape == wanted.shape == (3, pixels.height, pixels.width)
    level = 1 / 255 / np.asarray(processor.image_std).min()
    assert float((found - wanted).abs().max()) <= level + 1e-5
    (tmp_path / "again").mkdir()
    pixels.save_pretrained(tmp_path / "again")
    again = getattr(transformers, kind).from_pretrained(tmp_path / "again")
    assert np.allclose(again(image, return_tensors="np")["pixel_values"], wanted.numpy())


def test_another_size_keeps_the_share_that_is_cut_off():
    settings = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    pixels = Pixels(settings, image_size=112)
    assert pixels.settings["size"] == {"shortest_edge": 128}
    assert pixels.fit(picture(300, 200)).size == (112, 112)
    assert Pixels({"size": {"height": 8, "width": 8}}, image_size=16).fit(picture(30, 20)).size == (16, 16)


@pytest.mark.parametrize("name", ["dinov2", "convnext"])
@pytest.mark.parametrize("size", [(700, 30), (30, 700)])
def test_very_long_pictures(name, size):
    """The middle alone is made: of 1 x 20,000 pixels, all would be 32 x 640,000."""
    kind, settings = SETTINGS[name]
    processor = getattr(transformers, kind)(**settings)
    pixels, image = Pixels(processor.to_dict()), picture(*size)
    wanted = processor(image, return_tensors="np")["pixel_values"][0]
    level = 1 / 255 / np.asarray(processor.image_std).min()
    assert np.abs(pixels.tensor(pixels.fit(image)).numpy() - wanted).max() <= level + 1e-5
    largest = 0
    line = picture(1, 20_000)
    resize = line.resize

    def watched(shape, *rest):
        nonlocal largest
        largest = max(largest, *shape)
        return resize(shape, *rest)

    line.resize = watched
    assert pixels.fit(line).size == (pixels.width, pixels.height) and largest <= 64


def test_old_names_of_settings():
    """As facebook/resnet-50 has them."""
    old = {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875, "resample": 3}
    pixels = Pixels(old)
    assert (pixels.height, pixels.settings["image_processor_type"]) == (224, "ConvNextImageProcessor")


def test_a_picture_comes_back():
    pixels, image = Pixels({"size": 20}), picture(20, 20)
    assert np.array_equal(np.asarray(pixels.picture(pixels.tensor(image))), np.asarray(image))


def test_steps_that_are_not_known_are_refused(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"image_processor_type": "EfficientNetImageProcessor", "do_pad": True}))
    settings = load_settings(str(tmp_path))
    assert settings is not None
    with pytest.raises(ValueError, match="EfficientNetImageProcessor sets do_pad, which hftrain does not support"):
        Pixels(settings)
    assert load_settings(str(tmp_path / "empty")) is None
