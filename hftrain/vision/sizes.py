"""The size of the images that a model reads whole: chosen, tried, and the shape of a new model for it."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig

from hftrain.distributed import unsharded_models
from hftrain.models import ImageTransformerConfig, load
from hftrain.models import dinov3 as dinov3  # makes its classifier known to transformers
from hftrain.models.new import CUSTOM, known_entries, naming_model_config
from hftrain.vision.config import WholeImageConfig
from hftrain.vision.pixels import NEW, Pixels, load_settings

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

NEW_MODEL = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_encoder_layers": 4}
LARGEST = 224  # pixels that a new model reads by itself
SMALL = 64  # pixels up to which a new model is small
ANY_SIZE = ("swin", "convnext", "resnet")  # beginnings of kinds that pad, or slide their windows


def load_pixels(config: WholeImageConfig, rows: "Rows") -> Pixels:
    """How the model that `config` names reads pictures; of a new one, for the sizes of `rows`. The size is chosen where
    it is open, and is then in `config`.

    Raises:
        ValueError: a size that the model cannot take, with the reason.
    """
    if config.model_name_or_path is None:
        longest = np.maximum(rows["width"][:], rows["height"][:])
        side = min(LARGEST, max(8, -(-int(np.median(longest)) // 8) * 8))
        side = config.model_config.get("image_size", side)
        reason = f"the training images are {np.median(longest):.0f} pixels long, in the median"
        settings = NEW
    else:
        model_config: Any = load.load_model_config(config)
        settings = load_settings(config.model_name_or_path, config.model_revision) or NEW
        own = image_size_of(model_config) or LARGEST
        if "size" not in settings:
            settings = {**settings, "size": {"height": own, "width": own}}
        pixels = Pixels(settings)
        side, reason = pixels.height, f"the image processor of {config.model_name_or_path}"
        if pixels.height != pixels.width and config.image_size is None:
            return pixels
    config.choose("image_size", side, reason)
    return Pixels(settings, config.image_size)


def new_shape(
    config: WholeImageConfig, size: int, small: Mapping[str, Mapping[str, Any]] | None = None
) -> PreTrainedConfig:
    """The configuration of a new model; its patches are an eighth of a small image, and 16 pixels of a large one.

    Args:
        small: kind of model -> entries of its configuration for images of up to `SMALL` pixels.

    Raises:
        ValueError: a value of `model_config` that the configuration refuses.
    """
    given = config.model_config
    patch = min(16, max(2, size // 8))
    with naming_model_config():
        if config.model == CUSTOM:
            return ImageTransformerConfig(**NEW_MODEL | {"image_size": size, "patch_size": patch} | given)
        known = known_entries(config.model)
        shape: dict[str, Any] = {"image_size": size} if "image_size" in known else {}
        usual = getattr(AutoConfig.for_model(config.model), "patch_size", None)
        if shape and isinstance(usual, int) and size % usual and not config.model.startswith(ANY_SIZE):
            shape["patch_size"] = patch
        if small and size <= SMALL:
            shape |= small.get(config.model, {})
        return AutoConfig.for_model(config.model, **shape | given)


def image_size_of(model_config: PreTrainedConfig) -> int | None:
    """The size in a configuration, or in that of its encoder (SigLIP); None for models that read any size."""
    size = getattr(getattr(model_config, "vision_config", model_config), "image_size", None)
    return size if isinstance(size, int) else None


def refusal(
    model_config: PreTrainedConfig, size: int, auto_class: type[Any] = AutoModelForImageClassification
) -> str | None:
    """Why a model of this configuration cannot read pictures of size x size; None if it can. It is tried without
    weights."""
    part = getattr(model_config, "vision_config", model_config)
    patch = getattr(part, "patch_size", None)
    if isinstance(patch, int) and size % patch and not model_config.model_type.startswith(ANY_SIZE):
        near = max(1, round(size / patch)) * patch
        return f"its patches are {patch} pixels long: take a multiple of that, such as {near}"
    if model_config.model_type == ImageTransformerConfig.model_type:
        own = model_config.image_size
        return None if size == own else f"its positions are for images of {own} pixels"
    try:
        with unsharded_models(), torch.device("meta"):
            model = auto_class.from_config(copy.deepcopy(model_config))
            model.eval()(pixel_values=torch.zeros(1, getattr(part, "num_channels", 3), size, size))
    except Exception as error:  # each model says in its own way that it cannot
        return f"{type(error).__name__}: {error}"
    return None
