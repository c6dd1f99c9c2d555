"""The state of training as named, unsharded tensors: the same for every strategy and number of processes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from hftrain.distributed.moments import misfits
from hftrain.distributed.step import total, zero_stage
from hftrain.distributed.watch import moved

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer


def named_state(
    accelerator: Accelerator, model: nn.Module, optimizer: AcceleratedOptimizer
) -> Iterator[tuple[str, torch.Tensor]]:
    """`model.NAME` (fp32 masters, buffers) and `optimizer.NAME.KEY`, unsharded, on the CPU. All processes must iterate.

    A PEFT model yields only the trained weights: the base is read from its source.
    """
    module = accelerator.unwrap_model(model)
    adapters_only = hasattr(module, "peft_config")
    for name, buffer in module.named_buffers():
        if not adapters_only:
            yield f"model.{name}", buffer.detach().cpu()
    for name, parameter in module.named_parameters():
        if not (adapters_only and not parameter.requires_grad):
            yield f"model.{name}", _whole(accelerator, parameter).detach().cpu()
        if parameter.requires_grad:
            for key, value in _optimizer_state(accelerator, model, optimizer, parameter):
                yield f"optimizer.{name}.{key}", value.detach().cpu()


class Weight(NamedTuple):
    """The names, shape and norm that an export must have for one parameter or buffer."""

    names: list[str]  # several if it is tied
    shape: tuple[int, ...]
    norm: float


@torch.no_grad()
def weights(accelerator: Accelerator, model: nn.Module) -> list[Weight]:
    """The parameters and buffers (of a PEFT model only the trained parameters) that belong into a file. They are
    measured shard by shard, without an unsharded copy, so that a copy can be compared with them. Every process must
    call."""
    module = accelerator.unwrap_model(model)
    adapters_only = hasattr(module, "peft_config")
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    computed = set(getattr(module, "_keys_to_ignore_on_save", None) or ())  # Marian's positions: sines, in no file
    saved = [
        p for name, p in module.named_parameters() if (p.requires_grad or not adapters_only) and name not in computed
    ]
    squares = [float(torch.linalg.vector_norm(_piece(p), dtype=torch.float64)) ** 2 for p in saved]
    if any(hasattr(p, "ds_id") or hasattr(p, "full_tensor") for p in saved):  # otherwise each process has all of them
        squares = total(accelerator, *squares)
    shapes = [tuple(getattr(p, "ds_shape", p.shape)) for p in saved]
    measured = [Weight(names[id(p)], s, math.sqrt(square)) for p, s, square in zip(saved, shapes, squares, strict=True)]
    for prefix, part in module.named_modules() if not adapters_only else ():
        for key, buffer in part.named_buffers(recurse=False):  # unsharded on each process
            name = f"{prefix}.{key}" if prefix else key
            if key not in part._non_persistent_buffers_set and name not in computed:
                norm = float(torch.linalg.vector_norm(buffer.float(), dtype=torch.float64))
                measured.append(Weight([name], tuple(buffer.shape), norm))
    return measured


def _piece(parameter: Any) -> torch.Tensor:
    """This process's shard of a parameter."""
    if not hasattr(parameter, "ds_id"):
        return parameter.to_local() if hasattr(parameter, "to_local") else parameter
    size, rank = parameter.ds_tensor.ds_numel, torch.distributed.get_rank()
    if parameter.ds_tensor.numel() < size:  # it is on a disk
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.flatten()[size * rank : size * (rank + 1)].clone()
    return parameter.ds_tensor[: max(0, parameter.ds_numel - size * rank)]  # the last ones are padded


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
        return _checksum(_piece(tensor).detach(), start, width, item[2])

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


def load_parameters(
    accelerator: Accelerator, model: nn.Module, tensors: Mapping[str, torch.Tensor], prefix: str = "model."
) -> None:
    """Restores the parameters and buffers of `named_state`, sharded for the current strategy and processes.

    Raises:
        ValueError: a trainable parameter has no saved value, or a value has another shape.
    """
    module = accelerator.unwrap_model(model)
    for name, buffer in module.named_buffers():
        if prefix + name in tensors:
            buffer.copy_(tensors[prefix + name])
    for name, parameter in module.named_parameters():
        if prefix + name not in tensors:
            if parameter.requires_grad:
                raise ValueError(f"the checkpoint has no {prefix}{name}: it belongs to another model")
            continue
        value, shape = tensors[prefix + name], tuple(getattr(parameter, "ds_shape", parameter.shape))
        if tuple(value.shape) != shape:
            raise ValueError(f"the checkpoint's {name} has shape {tuple(value.shape)}, not {shape} as in this model")
        _set_whole(accelerator, parameter, value)


def load_optimizer(
    accelerator: Accelerator, model: nn.Module, optimizer: AcceleratedOptimizer, tensors: Mapping[str, torch.Tensor]
) -> list[str]:
    """Restores the optimizer's state of `named_state`; returns the trained parameters without a state.

    Raises:
        ValueError: the state belongs to another optimizer, or does not fit the parameters; then nothing is restored.
    """
    saved: dict[str, list[str]] = {}  # parameter -> keys of its state
    for entry in tensors:
        if entry.startswith("optimizer."):
            name, key = entry.removeprefix("optimizer.").rsplit(".", 1)
            saved.setdefault(name, []).append(key)
    trained = {n: p for n, p in accelerator.unwrap_model(model).named_parameters() if p.requires_grad}
    states = {n: {key: tensors[f"optimizer.{n}.{key}"] for key in saved[n]} for n in trained if n in saved}
    plain = getattr(optimizer, "optimizer", optimizer)
    problems = [problem for name, state in states.items() for problem in misfits(plain, name, trained[name], state)]
    if problems:
        shown = "\n  ".join([*problems[:9], *([f"and {len(problems) - 9} more"] if len(problems) > 9 else [])])
        raise ValueError(
            f"the checkpoint's optimizer state does not fit this run:\n  {shown}\nIt was changed, or saved by another "
            "optimizer or for another model: resume from another checkpoint"
        )
    for name, state in states.items():
        _set_optimizer_state(accelerator, model, optimizer, trained[name], state)
    return [name for name in trained if name not in states]


def without_state(accelerator: Accelerator, model: nn.Module, optimizer: AcceleratedOptimizer) -> list[str]:
    """The trained parameters without an optimizer state: those that never got a gradient."""
    if _sharded_by_zero(accelerator):
        return []
    state = getattr(optimizer, "optimizer", optimizer).state
    named = accelerator.unwrap_model(model).named_parameters()
    return [name for name, parameter in named if parameter.requires_grad and not state.get(parameter)]


@torch.no_grad()
def _whole(accelerator: Accelerator, parameter: nn.Parameter) -> torch.Tensor:
    if not _sharded_by_zero(accelerator):
        return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    if parameter.requires_grad:
        return safe_get_full_fp32_param(parameter)
    with GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
        return parameter.detach().clone()


@torch.no_grad()
def _set_whole(accelerator: Accelerator, parameter: nn.Parameter, value: torch.Tensor) -> None:
    if not _sharded_by_zero(accelerator):
        parameter.copy_(cut_like(parameter, value))
        return
    from deepspeed.runtime.zero import GatheredParameters

    if parameter.requires_grad:
        _set_zero_piece(parameter, value, None)
    with GatheredParameters([parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")):
        parameter.copy_(value)


def _optimizer_state(
    accelerator: Accelerator, model: Any, optimizer: AcceleratedOptimizer, parameter: nn.Parameter
) -> Iterator[tuple[str, torch.Tensor]]:
    if not _sharded_by_zero(accelerator):
        state = optimizer.optimizer.state.get(parameter, {})
        yield from ((k, v.full_tensor() if hasattr(v, "full_tensor") else torch.as_tensor(v)) for k, v in state.items())
        return
    from deepspeed.utils import safe_get_full_optimizer_state

    states = list(model.optimizer.optimizer.state.values())
    if states and "step" in states[0]:
        _link_zero_state(model.optimizer)
        yield "step", torch.as_tensor(states[0]["step"])
        for key in ("exp_avg", "exp_avg_sq"):
            yield key, safe_get_full_optimizer_state(parameter, key)


@torch.no_grad()
def _set_optimizer_state(
    accelerator: Accelerator,
    model: Any,
    optimizer: AcceleratedOptimizer,
    parameter: nn.Parameter,
    state: dict[str, torch.Tensor],
) -> None:
    if not _sharded_by_zero(accelerator):
        fused = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"])).get("fused")

        def placed(key: str, value: torch.Tensor) -> torch.Tensor:
            if key == "step":  # only fused kernels count on the device
                return value.to(parameter.device if fused else "cpu", copy=True)
            same_shape = value.shape == parameter.shape  # Adafactor's rows and columns have another shape
            return cut_like(parameter, value) if same_shape else value.to(parameter.device, copy=True)

        optimizer.optimizer.state[parameter] = {key: placed(key, value) for key, value in state.items()}
        return
    _create_zero_state(model.optimizer, state["step"])
    for key in ("exp_avg", "exp_avg_sq"):
        _set_zero_piece(parameter, state[key], key)


def cut_like(like: Any, value: torch.Tensor) -> torch.Tensor:
    """`value`, sharded like `like` (FSDP2), or on its device."""
    if hasattr(like, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements)
    return value.to(like.device, copy=True)


def _sharded_by_zero(accelerator: Accelerator) -> bool:
    return zero_stage(accelerator) > 0


def _set_zero_piece(parameter: Any, value: torch.Tensor, key: str | None) -> None:
    """Writes this process's shard of `value` into its fp32 master (key None) or optimizer state."""
    from deepspeed import utils

    value = value.to(parameter.device, torch.float32)
    if not hasattr(parameter, "ds_id"):
        setter = utils.safe_set_full_optimizer_state if key else utils.safe_set_full_fp32_param
    else:  # DeepSpeed's own setter of stage 3 fails if the shards are padded
        setter = utils.safe_set_local_optimizer_state if key else utils.safe_set_local_fp32_param
        size, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank()
        padded = nn.functional.pad(value.flatten(), (0, size * torch.distributed.get_world_size() - value.numel()))
        value = padded[size * rank : size * (rank + 1)]
    setter(parameter, value, *([key] if key else []))


def _create_zero_state(zero: Any, step: torch.Tensor) -> None:
    """Creates AdamW's state before its first step, so that a resumed run can write into it."""
    names = ("fp32_partitioned_groups_flat", "fp32_groups_flat_partition", "single_partition_of_fp32_groups")
    masters = next(name for name in names if hasattr(zero, name))  # of stage 3, of stage 1 in bf16, of stages 1 and 2
    for piece in getattr(zero, masters):
        if "exp_avg" not in zero.optimizer.state[piece]:
            moments = {key: torch.zeros_like(piece) for key in ("exp_avg", "exp_avg_sq")}
            zero.optimizer.state[piece] = {"step": step.clone(), **moments}
    _link_zero_state(zero)


def _link_zero_state(zero: Any) -> None:
    """Links the parameters of ZeRO-1/2 to their state; DeepSpeed does so only if the first group alone has any."""
    if hasattr(zero, "_hp_optimizer_states_linked"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()
