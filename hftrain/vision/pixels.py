"""Pictures as a model reads them: resized, cropped and normalised by the settings of its own image processor.

The settings are those of `preprocessor_config.json`; the pixels are made here with Pillow and NumPy, equal to the
processors of transformers, of which some need torchvision.

Shapes: H, W height and width that the model reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hftrain.data.files import ADAPTER

FILE = "preprocessor_config.json"
NEW: dict[str, Any] = {  # of a model that brings none along
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
LONG = 16  # times the shorter side
STEPS = {"do_pad": False, "rescale_offset": False, "include_top": False, "do_flip_channel_order": False}
STEPS |= {"do_reduce_labels": False}


class Pixels:
    """What an image processor does, for pictures that are RGB already.

    Args:
        settings: of the processor. With `image_size` its sizes are replaced: (image_size, image_size) comes out.

    Raises:
        ValueError: settings that are not known here.
    """

    def __init__(self, settings: Mapping[str, Any], image_size: int | None = None):
        self.settings = {key: value for key, value in settings.items() if value is not None}
        old = self.settings.pop("feature_extractor_type", NEW["image_processor_type"])
        kind = str(self.settings.get("image_processor_type", old))
        kind = kind.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
        self.settings["image_processor_type"] = kind
        for step, usual in STEPS.items():
            if self.settings.get(step, usual) != usual:
                raise ValueError(f"the image processor {kind} sets {step}, which hftrain does not support")
        self.convnext = kind.startswith("ConvNext")
        size = self.settings.get("size", {"height": 224, "width": 224})
        crop = self.settings.get("crop_size") if self.settings.get("do_center_crop") else None
        size, crop = (_sides(size, self.convnext or crop is not None), _sides(crop, False))
        if image_size is not None:
            size, crop = _scaled(size, crop, image_size)
        self.settings["size"] = size
        if crop is not None:
            self.settings["crop_size"] = crop
        final = crop or size
        if final is None or not ({"height", "width"} <= final.keys() or (self.convnext and "shortest_edge" in final)):
            raise ValueError(f"the image processor {kind} gives pictures of several sizes ({size}): set image_size")
        edge = final.get("shortest_edge")
        self.height, self.width = (edge, edge) if edge else (final["height"], final["width"])
        self.resample = Image.Resampling(self.settings.get("resample", 2))
        mean, std = (np.array(self.settings.get(f"image_{name}", [0.5] * 3), np.float32) for name in ("mean", "std"))
        self.factor = self.settings.get("rescale_factor", 1 / 255) if self.settings.get("do_rescale", True) else 1.0
        plain = not self.settings.get("do_normalize", True)
        self.mean, self.std = (np.zeros(3, np.float32), np.ones(3, np.float32)) if plain else (mean, std)

    def fit(self, image: Image.Image) -> Image.Image:
        """The whole picture, resized and cropped as for evaluation: H x W."""
        size = self.settings["size"]
        if self.convnext and size["shortest_edge"] < 384:
            return self._middle(image, int(size["shortest_edge"] / self.settings.get("crop_pct", 224 / 256)))
        if self.convnext:
            return image.resize((self.width, self.height), self.resample)
        if self.settings.get("do_resize", True):
            if edge := size.get("shortest_edge"):
                return self._middle(image, edge)
            image = image.resize((size["width"], size["height"]), self.resample)
        return _centre(image, self.height, self.width)

    def _middle(self, image: Image.Image, edge: int) -> Image.Image:
        """H x W of the middle of the picture, resized to a shorter side of `edge`. Only the middle of a very long
        picture is made: a line of 1 x 20,000 pixels would become 224 x 4,480,000."""
        width, height = _shortest(image, edge)
        if max(width, height) > LONG * edge:
            sides = min(width, self.width), min(height, self.height)
            left, top = ((whole - side) // 2 for whole, side in zip((width, height), sides, strict=True))
            across, down = image.width / width, image.height / height  # pixels of the picture for one that is made
            part = (left * across, top * down, (left + sides[0]) * across, (top + sides[1]) * down)
            return _centre(image.resize(sides, self.resample, part), self.height, self.width)
        return _centre(image.resize((width, height), self.resample), self.height, self.width)

    def resize(self, image: Image.Image, box: tuple[float, float, float, float] | None = None) -> Image.Image:
        """A part of the picture, (left, upper, right, lower), at H x W."""
        return image.resize((self.width, self.height), self.resample, box=box)

    def tensor(self, image: Image.Image) -> torch.Tensor:
        """(3, H, W) float32, rescaled and normalised."""
        values = (np.asarray(image).astype(np.float32) * np.float32(self.factor) - self.mean) / self.std
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))

    def picture(self, tensor: torch.Tensor) -> Image.Image:
        """The picture that a (3, H, W) tensor shows."""
        values = (tensor.numpy().transpose(1, 2, 0) * self.std + self.mean) / self.factor
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the settings, as transformers reads them."""
        (Path(folder) / FILE).write_text(json.dumps(self.settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_settings(name: str, revision: str = "main") -> dict[str, Any] | None:
    """The settings of the image processor of a model, of a folder or on the Hub; None if it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    if Path(name).is_dir() and not (Path(name) / FILE).is_file():
        if not (Path(name) / ADAPTER).is_file():
            return None
        name = json.loads((Path(name) / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    try:
        return ImageProcessingMixin.get_image_processor_dict(name, revision=revision)[0]
    except OSError:
        return None


def saved_settings(folder: Path) -> dict[str, Any]:
    """The settings of the image processor in the folder of a finished model. Raises: ValueError, it has none."""
    settings = load_settings(str(folder))
    if settings is None:
        raise ValueError(f"{folder} has no {FILE}, which says how its model reads images")
    return settings


def _sides(size: Any, shortest: bool) -> dict[str, int] | None:
    """A size as transformers writes it: a number, (height, width), or named sides."""
    if size is None:
        return None
    if isinstance(size, int):
        return {"shortest_edge": size} if shortest else {"height": size, "width": size}
    if isinstance(size, list | tuple):
        return {"height": size[0], "width": size[1]}
    return {name: int(value) for name, value in size.items() if value is not None}


def _scaled(
    size: dict[str, int] | None, crop: dict[str, int] | None, side: int
) -> tuple[dict[str, int], dict[str, int] | None]:
    """Sizes by which pictures of `side` come out; what is cut off keeps its share."""
    square = {"height": side, "width": side}
    if size and "shortest_edge" in size:
        if crop is None:
            return {"shortest_edge": side}, None
        share = size["shortest_edge"] / min(crop.get("height", side), crop.get("width", side))
        return {"shortest_edge": max(side, round(side * share))}, square
    return square, square if crop else None


def _shortest(image: Image.Image, edge: int) -> tuple[int, int]:
    """(width, height) with the shorter side `edge`, in proportion."""
    width, height = image.size
    if width <= height:
        return edge, int(edge * height / width)
    return int(edge * width / height), edge


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    """The middle of a picture; black beside one that is smaller."""
    if image.size == (width, height):
        return image
    top, left = math.floor((image.height - height) / 2), math.floor((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
