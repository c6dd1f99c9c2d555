"""Seconds of a step, from passes that are really run on this machine's device."""

from __future__ import annotations

import copy
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn

from hftrain.losses import Batch, Loss
from hftrain.train.flops import training_flops
from hftrain.train.forecast.passes import shorten, stacks

TRIES = 3  # passes of each batch, of which the fastest counts
LAYERS = 2  # of a large model that is probed
WHOLE = 30_000_000  # numbers: smaller models are probed with all layers
MOST = 1_000_000_000  # numbers: larger layers are not probed on a CPU


class Rate(NamedTuple):
    """How fast a device computes: `overhead` seconds a pass, `flops` a second beyond, and `update` seconds in which the
    optimizer changes a number."""

    overhead: float
    flops: float
    update: float

    def seconds(self, flops: float, passes: float, updated: float) -> float:
        """The time of a step with so many FLOPs, passes and updated numbers."""
        return self.overhead * passes + flops / self.flops + self.update * updated


def probe(model: Any, batches: list[tuple[Batch, np.ndarray]], loss: Loss, device: torch.device, *, bf16: bool) -> Rate:
    """Runs a small and a large batch through a model with the widths of `model`, with few layers if it is large, and
    updates it.

    Args:
        batches: the batch and the (N, K) lengths of its examples, of both.

    Raises:
        ValueError: the layers are too large for a CPU.
    """
    depth = max((len(stack) for stack in stacks(model)), default=LAYERS)
    layers = LAYERS if sum(p.numel() for p in model.parameters()) > WHOLE else depth
    tried = copy.deepcopy(model)
    shorten(tried, layers)
    numbers = sum(p.numel() for p in tried.parameters())
    if device.type == "cpu" and numbers > MOST:
        raise ValueError(f"{numbers / 1e9:.1f} billion parameters in {layers} layers are too many to be timed on a CPU")
    tried = tried.to_empty(device=device).train()
    with torch.no_grad():
        for parameter in tried.parameters():
            if parameter.is_floating_point():
                nn.init.normal_(parameter, std=0.02)
        for buffer in tried.buffers():
            buffer.zero_()
    counted = training_flops(tried)
    points = []
    for batch, lengths in batches:
        points.append((counted(lengths), _fastest(tried, send_to_device(batch, device), loss, bf16=bf16)))
    (little, short), (much, long) = sorted(points)
    flops = (much - little) / (long - short) if long > short and much > little else much / long
    flops = min(flops, 2 * much / long)  # two times that are nearly equal say little
    return Rate(max(0.0, short - little / flops) * max(1.0, depth / layers), flops, _update(tried))


def _fastest(model: nn.Module, batch: Batch, loss: Loss, *, bf16: bool) -> float:
    seconds = []
    device = next(model.parameters()).device
    for _ in range(TRIES):
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            value = loss.summed(model, batch)
        value.backward()
        float(value.detach())  # waits for the device
        seconds.append(time.perf_counter() - began)
        model.zero_grad(set_to_none=True)
    return min(seconds)


def _update(model: nn.Module) -> float:
    """Seconds in which AdamW changes one number."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer, seconds = torch.optim.AdamW(trained, lr=0.0), []
    for _ in range(TRIES):
        began = time.perf_counter()
        float(nn.utils.clip_grad_norm_(trained, 1.0))
        optimizer.step()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds) / sum(parameter.numel() for parameter in trained)
