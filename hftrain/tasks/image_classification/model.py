"""The model that classifies images: pretrained or new, with a head for these classes, and the size that it reads."""

import copy
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig
from transformers.integrations import is_deepspeed_zero3_enabled

from hftrain.models import ImageTransformerConfig, load
from hftrain.models.freezing import freeze
from hftrain.models.new import CUSTOM, known_entries
from hftrain.tasks.image_classification.config import ImageClassificationConfig
from hftrain.vision import Pixels
from hftrain.vision.pixels import NEW, load_settings

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

NEW_MODEL = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_encoder_layers": 4}
LARGEST = 224  # pixels that a new model reads by itself
ANY_SIZE = ("swin", "convnext", "resnet")  # beginnings of kinds that pad, or slide their windows


def load_pixels(config: ImageClassificationConfig, rows: "Rows") -> Pixels:
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


def load_classifier(config: ImageClassificationConfig, pixels: Pixels, names: Sequence[str]) -> Any:
    """The model that `config` names, or a new one, with a head for the classes `names` (none: for one number).

    Raises:
        ValueError: it cannot read pictures of this size, or `freeze` names nothing.
    """
    settings: dict[str, Any] = {
        "id2label": dict(enumerate(names)) or {0: "LABEL_0"},
        "label2id": {name: number for number, name in enumerate(names)} or {"LABEL_0": 0},
        "problem_type": config.problem_type,
    }
    size, new = pixels.height, None
    resized = False
    if config.model_name_or_path is None:
        new = partial(new_shape, config, size)
        if reason := refusal(new(), size):
            raise ValueError(f"image_size={size}: a new {config.model} cannot read such images: {reason}")
    elif reason := refusal(load.load_model_config(config), size):
        wanted = copy.deepcopy(load.load_model_config(config))
        set_image_size(wanted, size)
        resized = refusal(wanted, size) is None and wanted.model_type != ImageTransformerConfig.model_type
        if not resized:
            raise ValueError(f"image_size={size}: {config.model_name_or_path} cannot read such images: {reason}")
    model = load.load_model(config, AutoModelForImageClassification, new=new, settings=settings)
    if resized:
        model = interpolated(model, size)
    if config.freeze:
        freeze(model, config.freeze)
    return load.add_adapters(model, config, None)


def new_shape(config: ImageClassificationConfig, size: int) -> PreTrainedConfig:
    """The configuration of a new model; its patches are an eighth of a small image, and 16 pixels of a large one.

    Raises:
        ValueError: a value of `model_config` that the configuration refuses.
    """
    given = config.model_config
    patch = min(16, max(2, size // 8))
    try:
        if config.model == CUSTOM:
            return ImageTransformerConfig(**NEW_MODEL | {"image_size": size, "patch_size": patch} | given)
        known = known_entries(config.model)
        shape: dict[str, Any] = {"image_size": size} if "image_size" in known else {}
        usual = getattr(AutoConfig.for_model(config.model), "patch_size", None)
        if shape and isinstance(usual, int) and size % usual and not config.model.startswith(ANY_SIZE):
            shape["patch_size"] = patch
        return AutoConfig.for_model(config.model, **shape | given)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"model_config: {error}") from error


def image_size_of(model_config: PreTrainedConfig) -> int | None:
    """The size in a configuration, or in that of its encoder (SigLIP); None for models that read any size."""
    size = getattr(getattr(model_config, "vision_config", model_config), "image_size", None)
    return size if isinstance(size, int) else None


def set_image_size(model_config: PreTrainedConfig, size: int) -> None:
    part = getattr(model_config, "vision_config", model_config)
    if image_size_of(model_config) is not None:
        part.image_size = size


def refusal(model_config: PreTrainedConfig, size: int) -> str | None:
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
    if is_deepspeed_zero3_enabled():  # cuts up what is made
        return None
    try:
        with torch.device("meta"):
            model = AutoModelForImageClassification.from_config(copy.deepcopy(model_config))
            model.eval()(pixel_values=torch.zeros(1, getattr(part, "num_channels", 3), size, size))
    except Exception as error:  # each model says in its own way that it cannot
        return f"{type(error).__name__}: {error}"
    return None


@torch.no_grad()
def interpolated(model: Any, size: int) -> Any:
    """The model for images of another size: its position embeddings are made of those that it has, as the model itself
    interpolates them (`interpolate_pos_encoding`).

    Raises:
        ValueError: it has no such positions, or they are in pieces (ZeRO-3).
    """
    if is_deepspeed_zero3_enabled():
        raise ValueError("image_size: position embeddings cannot be interpolated in pieces (ZeRO-3): use ZeRO-2")
    weights, tables = model.state_dict(), {}
    for name, module in model.named_modules():
        if hasattr(module, "interpolate_pos_encoding"):
            table = getattr(module, "position_embedding", None)  # of SigLIP, without a class token
            old = module.position_embeddings if table is None else table.weight[None]
            patches = (size // getattr(model.config, "vision_config", model.config).patch_size) ** 2
            extra = 0 if table is not None else old.shape[1] - module.patch_embeddings.num_patches
            new = module.interpolate_pos_encoding(old.new_zeros(1, patches + extra, old.shape[-1]), size, size)
            key = "position_embeddings" if table is None else "position_embedding.weight"
            tables[f"{name}.{key}"] = new if table is None else new[0]
    if not tables:
        raise ValueError(f"image_size={size}: {type(model).__name__} has no positions that can be interpolated")
    set_image_size(model.config, size)
    larger = AutoModelForImageClassification.from_config(model.config, dtype=model.dtype)
    larger.load_state_dict(weights | tables)
    larger.new_modules = model.new_modules
    logger.warning("position embeddings are interpolated for images of %d pixels", size)
    return larger
