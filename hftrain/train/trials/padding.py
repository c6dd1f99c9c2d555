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
from hftrain.models.unpadded import WORTH, WORTH_FREE, places_of, stacks_of, unpadded
from hftrain.train import checkpoint
from hftrain.train.trials.memory import left_as_it_was
from hftrain.train.trials.small import base, drops, parts

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
    """`loss`, computed without padding (`hftrain.models.unpadded`) if a trial on three examples gives the same loss;
    otherwise unchanged. Every process must call.

    If `padding_free` is open, on CPUs only, and not in a narrow model. For a model with dropout, true is chosen: it
    draws numbers for tokens only, and the trial compares losses without dropout. A resumed run that began with the
    numbers of the padded batch keeps them, and the trial compares the numbers too.

    Raises:
        ValueError: `padding_free` is true, or the resumed run draws for tokens only, but the model needs its padding.
    """
    if config.chosen.pop("padding_free", None):  # by an earlier fit
        config.padding_free = None
    inner, set_by_user = base(accelerator.unwrap_model(model)), config.padding_free
    if set_by_user is False:
        return loss
    before = checkpoint.contract_of(config.output_dir, config.resume_from_checkpoint)
    wanted = set_by_user or bool(before.get("padding_free"))
    reason = obstacle(accelerator, inner, config)
    if not reason and not wanted:
        on_cpu, width = accelerator.device.type == "cpu", getattr(inner.config, "hidden_size", None) or 0
        if not on_cpu or width < NARROW:
            return loss
    free = wanted or (not before and drops(inner))
    if not reason:
        reason = _tried(accelerator, model, inner, examples, config, collate=collate, loss=loss, exact=not free)
        if reason and not set_by_user:
            logger.info("%s computes padding too: %s", type(inner).__name__, reason)
    if reason and set_by_user:
        raise ValueError(f"padding_free cannot be true: {reason}. Leave it open (null)")
    if reason and wanted and "padding_free" not in config.resume_allow:
        names = ",".join([*sorted(config.resume_allow), "padding_free"])
        raise ValueError(
            f"this run draws dropout for tokens only, as its checkpoint says (padding_free: true), and cannot go on "
            f"so: {reason}. Set that back, or continue with --resume_allow {names}: then dropout draws for "
            "padding too"
        )
    if reason:
        return loss
    if free:
        config.choose("padding_free", True, "as the checkpoint has it" if before else "dropout draws for tokens only")

    def packed(model: nn.Module, batch: Batch) -> torch.Tensor:
        with unpadded(inner, batch, WORTH_FREE if free else WORTH, exact=not free):
            return loss.summed(model, batch)

    return Loss(packed, loss.count)


def obstacle(accelerator: Accelerator, inner: nn.Module, config: TrainConfig) -> str:
    """Why the layers of a model have to see its padding; "" if nothing is known to require it."""
    if not isinstance(inner, PreTrainedModel) or not stacks_of(inner):
        return f"{type(inner).__name__} has no stack of layers as transformers builds them"
    if is_sharded(accelerator):
        return "ZeRO and FSDP gather the weights in the layers' own forward passes"
    for name in ("torch_compile", "activation_checkpointing"):
        if getattr(config, name):
            return f"{name} is on"
    if any(value for part in parts(inner.config) for name, value in vars(part).items() if "layerdrop" in name):
        return "its last layer, behind which the padding returns, may be left out (layerdrop)"
    return ""


def _tried(
    accelerator: Accelerator,
    model: nn.Module,
    inner: PreTrainedModel,
    examples: Examples,
    config: TrainConfig,
    *,
    collate: Callable[[list[Any]], Batch],
    loss: Loss,
    exact: bool,
) -> str:
    """Why the loss of three examples is not the same without padding; "" if it is."""
    order = np.argsort(examples.lengths.sum(axis=1), kind="stable")
    rows = order[[0, len(order) // 3, 2 * len(order) // 3]].tolist()

    def summed(worth: float) -> tuple[float, torch.Tensor, bool]:
        """The loss, the random state after it, and whether any layers were spared their padding."""
        seed_all(config.seed, 0, 0)
        batch = send_to_device(collate(fetch(examples, rows)), accelerator.device)
        with unpadded(inner, batch, worth, exact=exact) as stacks:
            value = float(loss.summed(model, batch))
        return value, torch.get_rng_state(), any(stack.served for stack in stacks)

    with left_as_it_was(inner), torch.no_grad(), accelerator.autocast():
        inner.train(exact)
        if places_of(inner, collate(fetch(examples, rows)), 0.0) is None:
            return "its batches have no padding that an attention mask shows"
        expected, after, _ = summed(1.0)
        try:
            value, state, spared = summed(0.0)
        except Exception as error:  # of the model's own code, which may need its rows
            return f"without it, it fails ({error})"
    if not spared:
        return "its layers see something other than what its attention mask masks"
    rounding = 1e-4 if accelerator.mixed_precision == "no" else 1e-2
    if not torch.equal(after, state) or not math.isclose(value, expected, rel_tol=rounding):
        return "without it, its loss differs"
    return ""
