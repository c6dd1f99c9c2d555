"""The bytes that a process needs under each strategy, part by part."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from hftrain.train.flops import size
from hftrain.train.forecast.passes import Pass, largest_layer

FILES = {
    "one device": None, "DDP": "ddp.yaml", "ZeRO-1": "zero1.yaml", "ZeRO-2": "zero2.yaml", "ZeRO-3": "zero3.yaml",
    "offload": "zero3_offload.yaml", "FSDP2": "fsdp2.yaml",
}  # fmt: skip
LIVE = 1_000_000_000  # numbers that ZeRO-3 keeps gathered at most (stage3_max_live_parameters)
MOMENTS = {"adamw_torch": 8, "adamw_8bit": 2, "adafactor": 0, "muon": 4}  # bytes of state for each trained number


class Weights(NamedTuple):
    """The size of a model, in numbers and bytes."""

    trained: int  # numbers
    trained_bytes: int
    frozen: int  # numbers
    frozen_bytes: int
    layer: int  # numbers in the largest group of weights that FSDP2 gathers at once
    width: int  # H: DeepSpeed averages gradients in buckets of H * H numbers
    persistent: int  # numbers in weights so small that ZeRO-3 does not shard them


class Needs(NamedTuple):
    """Bytes of one process; `peak` is the most that it holds at a time."""

    weights: int
    gradients: int
    optimizer: int  # its state, and fp32 masters
    activations: int  # with the logits
    logits: int
    exchange: int  # gathered weights and buckets
    host: int  # in the memory of the CPU, when offloaded
    checkpoint: int  # on disk, of the whole run
    peak: int


def weigh_model(model: Any) -> Weights:
    """Counts a model, also on the meta device."""
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    frozen = [p for p in parameters if not p.requires_grad]
    wide = max((shape_of(p)[-1] for p in trained if shape_of(p)), default=1)
    width = int(getattr(getattr(model, "config", None), "hidden_size", 0) or wide)
    return Weights(
        sum(map(size, trained)),
        sum(map(bytes_of, trained)),
        sum(map(size, frozen)),
        sum(map(bytes_of, frozen)) + sum(b.nbytes for b in model.buffers()),
        largest_layer(model),
        width,
        sum(size(p) for p in parameters if size(p) <= 10 * width),
    )


def shape_of(parameter: torch.Tensor) -> tuple[int, ...]:
    """The shape of a parameter, also if ZeRO-3 has sharded it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def bytes_of(parameter: torch.Tensor) -> int:
    """The bytes of a parameter, unsharded."""
    packed = hasattr(parameter, "quant_state")
    return parameter.nbytes if packed else size(parameter) * parameter.element_size()


def needs(
    strategy: str,
    weights: Weights,
    one: Pass,
    processes: int,
    *,
    bf16: bool = False,
    optim: str = "adamw_torch",
    accumulated: bool = True,
) -> Needs:
    """What a process holds at its peak: in a backward pass, with the optimizer's state of the steps before.

    Args:
        one: the pass of a micro-batch; in half precision under ZeRO and FSDP2, one with narrow weights.
        accumulated: a step has several micro-batches on a process.
    """
    trained, shard = weights.trained, -(-weights.trained // processes)
    computed = 2 if bf16 else 4  # bytes of a number that the forward pass reads
    moments = MOMENTS[optim]
    packed = weights.frozen_bytes < 2 * weights.frozen  # in 4 bits, which a strategy does not convert
    whole = computed * trained + (weights.frozen_bytes if packed else computed * weights.frozen)
    host = exchange = 0
    bucket = weights.width**2 * computed
    if strategy in ("one device", "DDP"):
        held, gradients, state = weights.trained_bytes + weights.frozen_bytes, weights.trained_bytes, moments * trained
        peak = held + state + (one.activations + gradients if accumulated else one.with_gradients)
    elif strategy in ("ZeRO-1", "ZeRO-2"):
        held, gradients = whole, 4 * (trained if strategy == "ZeRO-1" else shard)
        state = (4 + moments) * shard
        exchange = 2 * bucket
        peak = held + state + exchange + one.activations + gradients
    elif strategy in ("ZeRO-3", "offload"):
        held = computed * -(-(trained + weights.frozen) // processes) + computed * weights.persistent
        gradients, state = 4 * shard, (4 + moments) * shard
        gathered = computed * min(trained + weights.frozen, LIVE)
        exchange = gathered + 2 * bucket
        peak = held + state + gradients + exchange + one.activations
        if strategy == "offload":
            host, held, gradients, state = held + state + gradients, 0, 0, 0
            peak = exchange + one.activations
    else:
        held = 4 * shard + -(-weights.frozen_bytes // processes)
        gradients, state = 4 * shard, moments * shard
        # the weights of a layer and of the next, its gradients, and what is being scattered: 2 to 5 layers, by timing
        exchange = 4 * computed * weights.layer
        peak = held + state + gradients + exchange + one.activations
    checkpoint = (4 + moments) * trained
    if strategy in ("one device", "DDP"):  # a sharded checkpoint has no export
        checkpoint += weights.trained_bytes if weights.frozen else weights.trained_bytes + weights.frozen_bytes
    return Needs(held, gradients, state, one.activations, one.logits, exchange, host, checkpoint, peak)
