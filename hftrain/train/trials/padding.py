"""Tries whether a loss is the same if the layers of the model see no padding."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn
from transformers import PreTrainedModel

from hftrain.config import TrainConfig
from hftrain.data.examples import Examples, fetch
from hftrain.data.plan import seed_all
from hftrain.distributed import is_sharded
from hftrain.losses import Batch, Loss
from hftrain.models.unpadded import places_of, stacks_of, unpadded
from hftrain.train.trials.memory import left_as_it_was
from hftrain.train.trials.small import base, parts

logger = logging.getLogger(__name__)
NARROW = 96  # features of a token: in a narrower model, moving tokens costs what their padding would


def without_padding(
    accelerator: Accelerator,
    model: nn.Module,
    examples: Examples,
    config: TrainConfig,
    *,
    collate: Callable[[list[Any]], Batch],
    loss: Loss,
) -> Loss:
    """`loss`, computed without padding (`hftrain.models.unpadded`) if a trial on three examples gives the same loss and
    draws the same random numbers; otherwise unchanged. Every process must call.

    On CPUs only: no GPU has measured it. Not if activations are computed twice, with sharded or compiled layers, nor
    in a narrow model.
    """
    inner = base(accelerator.unwrap_model(model))
    other = is_sharded(accelerator) or config.torch_compile or config.activation_checkpointing
    if other or accelerator.device.type != "cpu" or not isinstance(inner, PreTrainedModel) or not stacks_of(inner):
        return loss
    if (getattr(inner.config, "hidden_size", None) or 0) < NARROW:
        return loss
    if any(value for part in parts(inner.config) for name, value in vars(part).items() if "layerdrop" in name):
        return loss  # the last layer, behind which the padding returns, may be left out
    order = np.argsort(examples.lengths.sum(axis=1), kind="stable")
    rows = order[[0, len(order) // 3, 2 * len(order) // 3]].tolist()

    def summed(worth: float) -> tuple[float, torch.Tensor]:
        seed_all(config.seed, 0, 0)
        batch = send_to_device(collate(fetch(examples, rows)), accelerator.device)
        with unpadded(inner, batch, worth):
            return float(loss.summed(model, batch)), torch.get_rng_state()

    with left_as_it_was(inner), torch.no_grad(), accelerator.autocast():
        batch = collate(fetch(examples, rows))
        if places_of(inner, batch, 0.0) is None:
            return loss
        expected, after = summed(1.0)
        try:
            value, state = summed(0.0)
        except Exception as error:  # of the model's own code, which may need its rows
            logger.info("%s computes padding too: without it, it fails (%s)", type(inner).__name__, error)
            return loss
    rounding = 1e-4 if accelerator.mixed_precision == "no" else 1e-2
    if not torch.equal(after, state) or not math.isclose(value, expected, rel_tol=rounding):
        logger.info("%s computes padding too: without it, its loss differs", type(inner).__name__)
        return loss

    def packed(model: nn.Module, batch: Batch) -> torch.Tensor:
        with unpadded(inner, batch):
            return loss.summed(model, batch)

    return Loss(packed, loss.count)
