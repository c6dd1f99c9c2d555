"""The error of the hidden patches. Shapes: B examples of a batch, N patches, H, W height and width."""

from typing import Any

import torch
from torch import nn

from hftrain.losses import Batch, Loss
from hftrain.tasks.image_pretraining.config import MAE


def reconstruction_loss(kind: str) -> Loss:
    """The mean error of a hidden patch, summed over them, for a `kind` of model: squared for MAE, absolute for SimMIM.

    It is the model's own loss, which is a mean over the micro-batch; every image has equally many hidden patches.
    """

    def summed(model: nn.Module, batch: Batch) -> torch.Tensor:
        return run(kind, model, batch).loss.float() * batch["mask"].sum()

    return Loss(summed, lambda batch: int(batch["mask"].sum()))


def run(kind: str, model: nn.Module, batch: Batch, **options: bool) -> Any:
    """The model's output for pictures with hidden patches."""
    pictures, mask = batch["pixel_values"], batch["mask"]
    if kind != MAE:
        return model(pixel_values=pictures, bool_masked_pos=mask, **options)
    # MAE shows the patches of the lowest noise
    places = torch.linspace(0, 0.5, mask.shape[1], device=mask.device)
    return model(pixel_values=pictures, noise=places + mask.float(), **options)
