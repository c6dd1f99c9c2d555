"""The model that classifies images: pretrained or new, with a head for these classes, and the size that it reads."""

import copy
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForImageClassification, PreTrainedConfig
from transformers.integrations import is_deepspeed_zero3_enabled

from hftrain.models import ImageTransformerConfig, load
from hftrain.models.freezing import freeze
from hftrain.models.saved import class_entries
from hftrain.tasks.image_classification.config import ImageClassificationConfig
from hftrain.vision import Pixels
from hftrain.vision.sizes import image_size_of, new_shape, refusal

logger = logging.getLogger(__name__)


def load_classifier(config: ImageClassificationConfig, pixels: Pixels, names: Sequence[str]) -> Any:
    """The model that `config` names, or a new one, with a head for the classes `names` (none: for one number).

    Raises:
        ValueError: it cannot read pictures of this size, or `freeze` names nothing.
    """
    settings = {**class_entries(names), "problem_type": config.problem_type}
    size, new = pixels.height, None
    resized = False
    if config.model_name_or_path is None:
        new = partial(new_shape, config, size)
        if reason := refusal(new(), size):
            raise ValueError(f"image_size={size}: a new {config.model} cannot read such images: {reason}")
    elif reason := refusal(load.load_model_config(config, AutoModelForImageClassification), size):
        wanted = copy.deepcopy(load.load_model_config(config, AutoModelForImageClassification))
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


def set_image_size(model_config: PreTrainedConfig, size: int) -> None:
    part = getattr(model_config, "vision_config", model_config)
    if image_size_of(model_config) is not None:
        part.image_size = size


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
    with model.device:
        larger = AutoModelForImageClassification.from_config(model.config, dtype=model.dtype)
    larger.load_state_dict(weights | tables)
    noted = {name: value for name, value in vars(model).items() if name not in vars(larger)}  # when it was loaded
    vars(larger).update(noted)
    logger.warning("position embeddings are interpolated for images of %d pixels", size)
    return larger
