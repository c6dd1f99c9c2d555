"""Sums over the weights of a model, the same for every strategy and number of processes: norms and checksums."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from hftrain.distributed.pieces import local_shard
from hftrain.distributed.step import total, zero_stage
from hftrain.distributed.watch import moved
from hftrain.losses import WITHOUT_FP64

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer


class Weight(NamedTuple):
    """The names, shape and norm that an export must have for one parameter or buffer."""

    names: list[str]  # several if it is tied
    shape: tuple[int, ...]
    norm: float


@torch.no_grad()
def weights(
    accelerator: Accelerator, model: nn.Module, copies: Mapping[str, torch.Tensor] | None = None
) -> list[Weight]:
    """The parameters and buffers (of a PEFT model only the trained parameters) that belong into a file. They are
    measured shard by shard, without an unsharded copy, so that a copy can be compared with them. Every process must
    call.

    Args:
        copies: unsharded tensors by name, which are measured instead of those of the model; then only the process that
            has them must call.
    """
    module = accelerator.unwrap_model(model)
    adapters_only = hasattr(module, "peft_config")
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    computed = set(getattr(module, "_keys_to_ignore_on_save", None) or ())  # Marian's positions: sines, in no file
    saved = [
        p for name, p in module.named_parameters() if (p.requires_grad or not adapters_only) and name not in computed
    ]
    measured_as = [local_shard(p) if copies is None else copies.get(names[id(p)][0], p) for p in saved]
    squares = [norm_of(values) ** 2 for values in measured_as]
    sharded = any(hasattr(p, "ds_id") or hasattr(p, "full_tensor") for p in saved)
    if sharded and copies is None:  # otherwise each process has all of them
        squares = total(accelerator, *squares)
    shapes = [tuple(getattr(p, "ds_shape", p.shape)) for p in saved]
    measured = [Weight(names[id(p)], s, math.sqrt(square)) for p, s, square in zip(saved, shapes, squares, strict=True)]
    for prefix, part in module.named_modules() if not adapters_only else ():
        for key, buffer in part.named_buffers(recurse=False):  # unsharded on each process
            name = f"{prefix}.{key}" if prefix else key
            if key not in part._non_persistent_buffers_set and name not in computed:
                values = buffer if copies is None else copies.get(name, buffer)
                measured.append(Weight([name], tuple(buffer.shape), norm_of(values)))
    return measured


def norm_of(tensor: torch.Tensor) -> float:
    """The norm of a tensor, summed in fp64."""
    values = tensor.cpu() if tensor.device.type in WITHOUT_FP64 else tensor
    return float(torch.linalg.vector_norm(values.float(), dtype=torch.float64))


BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
LANES = 1 << 16  # numbers at a time on a CPU, so that they stay in its cache


@torch.no_grad()
def fingerprint_parameters(accelerator: Accelerator, named: Sequence[tuple[str, torch.Tensor, Sequence[int]]]) -> str:
    """sha256 (hex) of the names, types and shapes of tensors, and of every bit in them. Every process must call.

    The bits count as the sum of all numbers of a tensor, read as integers, and as the sum of each times its place, both
    modulo 2^64: sums can be added over the shards of ZeRO-3, so the result is the same for every strategy. A core reads
    about 1 GB/s.

    Args:
        named: (name, tensor, rows of it to ignore).
    """
    main = accelerator.is_main_process

    def measure(item: tuple[str, torch.Tensor, Sequence[int]]) -> tuple[int, int]:
        tensor: Any = item[1]
        if hasattr(tensor, "ds_id"):
            start = tensor.ds_tensor.ds_numel * torch.distributed.get_rank()
        elif main:
            start = 0
        else:  # the main process has the complete tensor
            return 0, 0
        width = math.prod(getattr(tensor, "ds_shape", tensor.shape)[1:])
        return _checksum(local_shard(tensor).detach(), start, width, item[2])

    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        sums = torch.tensor([_signed(value) for pair in pool.map(measure, named) for value in pair], dtype=torch.int64)
    if accelerator.num_processes > 1:
        sums = sums.to("cpu" if torch.distributed.get_backend() == "gloo" else accelerator.device)
        torch.distributed.all_reduce(sums)
        moved()
    described = [
        [name, str(tensor.dtype), list(getattr(tensor, "ds_shape", tensor.shape)), *pair]
        for (name, tensor, _), pair in zip(named, sums.view(-1, 2).tolist(), strict=True)
    ]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _checksum(tensor: torch.Tensor, start: int, width: int, rows: Sequence[int]) -> tuple[int, int]:
    bits = tensor.contiguous().flatten().view(BITS[tensor.element_size()])
    size = LANES if bits.device.type == "cpu" else LANES << 8
    places = torch.arange(1, min(size, bits.numel()) + 1, device=bits.device)
    left_out = torch.tensor(rows, dtype=torch.int64, device=bits.device)
    first = second = 0
    for begin in range(0, bits.numel(), size):
        part = bits[begin : begin + size].to(torch.int64)
        ramp, before = places[: len(part)], start + begin
        if rows:
            part = part.masked_fill(torch.isin((ramp + (before - 1)) // width, left_out), 0)
        plain = int(part.sum())
        first, second = first + plain, second + int((part * ramp).sum()) + before * plain
    return first, second


def _signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def without_state(accelerator: Accelerator, model: nn.Module, optimizer: AcceleratedOptimizer) -> list[str]:
    """The trained parameters without an optimizer state: those that never got a gradient."""
    if zero_stage(accelerator):
        return []
    state = getattr(optimizer, "optimizer", optimizer).state
    named = accelerator.unwrap_model(model).named_parameters()
    return [name for name, parameter in named if parameter.requires_grad and not state.get(parameter)]
