"""The model that reconstructs images: pretrained or new, and which of their patches it has to."""

import math
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForMaskedImageModeling, AutoModelForPreTraining

from hftrain.models import load
from hftrain.models.saved import remember
from hftrain.models.transformer.attention import sinusoids
from hftrain.tasks.image_pretraining.config import MAE, ImagePretrainingConfig
from hftrain.tasks.image_pretraining.examples import Hiding
from hftrain.vision import Pixels
from hftrain.vision.sizes import SMALL, new_shape, refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ViTMAEForPreTraining

FEW = 16  # patches, of which 75 % hidden would leave 4: such a MAE learns the mean image and no more
SQUARE = 32  # pixels of a hidden square in SimMIM
SMALL_VIT = {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 4, "num_hidden_layers": 3}
DECODER = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 1}
SMALL_SHAPES: dict[str, dict[str, Any]] = {
    MAE: {**SMALL_VIT, **{f"decoder_{name}": value for name, value in DECODER.items()}},
    "vit": SMALL_VIT,
    "deit": SMALL_VIT,
}


def load_reconstructor(config: ImagePretrainingConfig, pixels: Pixels) -> Any:
    """The model that `config` names, or a new one. `mask_ratio` is chosen where it is open, and is then in `config`.

    Raises:
        ValueError: it cannot read pictures of this size, or reconstruct them.
    """
    size, new = pixels.height, partial(shape_of_new, config, pixels.height)
    pretrained = config.model_name_or_path is not None
    shape: Any = load.load_model_config(config) if pretrained else new()
    kind, name = shape.model_type, config.model_name_or_path or f"a new {config.model}"
    auto_class: Any = AutoModelForPreTraining if kind == MAE else AutoModelForMaskedImageModeling
    if pixels.height != pixels.width:
        raise ValueError(f"{name} reads {pixels.width} x {pixels.height} pixels: set image_size, for a square")
    if reason := refusal(shape, size, auto_class):
        raise ValueError(f"image_size={size}: {name} cannot read such images: {reason}")
    config.choose("mask_ratio", *usual_ratio(kind, (shape.image_size // shape.patch_size) ** 2))
    model = load.load_model(config, auto_class, new=new)
    if kind == MAE:
        model.config.mask_ratio = config.mask_ratio
        if not pretrained:
            initialize(model)
    return model


def usual_ratio(kind: str, patches: int) -> tuple[float, str]:
    """The share of an image of so many patches that is hidden from a kind of model, and why."""
    if kind != MAE:
        return 0.6, "as in the paper of SimMIM"
    if patches <= FEW:
        return 0.5, f"75 %, as in the paper of MAE, would leave too few of {patches} patches"
    return 0.75, "as in the paper of MAE"


def shape_of_new(config: ImagePretrainingConfig, size: int) -> Any:
    """The configuration of a new model, which reconstructs as many pixels as it reads."""
    shape: Any = new_shape(config, size, SMALL_SHAPES)
    if hasattr(shape, "encoder_stride") and "encoder_stride" not in config.model_config:
        stages = getattr(shape, "depths", None)  # of Swin, each after the first halves the sides
        shape.encoder_stride = shape.patch_size * 2 ** (len(stages) - 1 if stages else 0)
    return shape


@torch.no_grad()
def initialize(model: "ViTMAEForPreTraining") -> None:
    """Gives a new MAE the weights of its paper (He et al. 2021) and their code: Xavier's for linear layers and patches,
    0.02 for tokens, sines and cosines for the positions, which are not trained. transformers leaves the positions at 0,
    and the patches so small that they hardly differ."""
    encoder, decoder = model.vit.embeddings, model.decoder
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
    for token in (encoder.cls_token, decoder.mask_token):
        nn.init.normal_(token, std=0.02)
    side = math.isqrt(encoder.position_embeddings.shape[1] - 1)
    places = torch.arange(side)
    for table in (encoder.position_embeddings, decoder.decoder_pos_embed):
        half = table.shape[-1] // 2
        columns, rows = sinusoids(places.repeat(side), half), sinusoids(places.repeat_interleave(side), half)
        table[0, 1:] = torch.cat([columns, rows], dim=-1).to(table)  # the first is the class token's


def make_hiding(config: ImagePretrainingConfig, model: "PreTrainedModel") -> Hiding:
    """What hides patches of this model's images. `mask_patch_size` is chosen where it is open.

    Raises:
        ValueError: squares that do not cover the image, or of which none or all would be hidden.
    """
    patch, size, ratio = model.config.patch_size, model.config.image_size, config.mask_ratio
    assert ratio is not None
    mae = model.config.model_type == MAE
    usual = patch if mae or size <= SMALL or size % SQUARE or SQUARE % patch else SQUARE
    config.choose("mask_patch_size", usual, "a patch of the model" if usual == patch else "as in the paper of SimMIM")
    square = config.mask_patch_size
    assert square is not None
    if mae and square != patch:
        raise ValueError(f"mask_patch_size={square}: MAE hides single patches, of {patch} pixels")
    if square % patch or size % square:
        raise ValueError(
            f"mask_patch_size={square} must be a multiple of the model's patches ({patch} pixels) and a divisor of the "
            f"image ({size} pixels)"
        )
    squares = (size // square) ** 2
    # MAE rounds down what it shows, SimMIM rounds up what it hides
    count = squares - int(squares * (1 - ratio)) if mae else math.ceil(squares * ratio)
    if not 0 < count < squares:
        raise ValueError(f"mask_ratio={ratio}: {count} of {squares} squares would be hidden: set another one")
    hiding = Hiding(size // patch, square // patch, count)
    remember(model.config, hiding=asdict(hiding))  # for `hftrain predict --draw`
    return hiding
