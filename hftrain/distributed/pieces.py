"""The state of training as named pieces of tensors: each process stores, and reads back, only what it has in memory.

A piece is a contiguous part of a flattened tensor. ZeRO and FSDP2 shard tensors into such pieces, so a checkpoint of
any strategy and number of processes can be read on any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import torch
from accelerate import Accelerator
from torch import nn

from hftrain.distributed.moments import misfits
from hftrain.distributed.step import zero_stage

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer


Sharded: TypeAlias = Any  # a tensor or parameter, perhaps with the attributes that DeepSpeed or FSDP2 give it
Engine: TypeAlias = Any  # DeepSpeed's wrapped model, or its optimizer


class Piece(NamedTuple):
    """A part of a tensor that this process stores."""

    name: str
    shape: tuple[int, ...]  # of the unsharded tensor
    start: int  # position of the first number of `values` in the flattened tensor
    values: torch.Tensor

    @classmethod
    def whole(cls, name: str, tensor: torch.Tensor) -> Piece:
        """All of a tensor."""
        return cls(name, tuple(tensor.shape), 0, tensor.detach())

    @property
    def complete(self) -> bool:
        return tuple(self.values.shape) == self.shape


class Stored(Protocol):
    """Named tensors of a checkpoint, which are read from the disk on access."""

    def __contains__(self, name: object, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, name: str, /) -> torch.Tensor: ...

    def describe(self, name: str) -> torch.Tensor:
        """Shape and type of a tensor, on the meta device."""
        ...

    def part(self, name: str, start: int, count: int) -> torch.Tensor:
        """`count` numbers of the flattened tensor from `start` on; nothing else is read."""
        ...


# ---- what this process stores


@torch.no_grad()
def pieces(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: AcceleratedOptimizer,
    averages: Mapping[str, torch.Tensor] | None = None,
) -> Iterator[Piece]:
    """`model.NAME` (fp32 masters, buffers), `optimizer.NAME.KEY` and `ema.NAME`; tensors that every process has come
    from the main process. Values are views of the live tensors.

    A PEFT model yields only the trained weights: the base is read from its source.
    """
    main, module = accelerator.is_main_process, accelerator.unwrap_model(model)
    adapters_only = hasattr(module, "peft_config")
    entries: Iterator[tuple[str, Any]] = module.named_buffers()
    for name, buffer in entries if main and not adapters_only else ():
        yield Piece.whole(f"model.{name}", buffer)
    for name, parameter in module.named_parameters():
        if not (adapters_only and not parameter.requires_grad):
            yield from _weight(accelerator, f"model.{name}", parameter)
        if parameter.requires_grad:
            yield from _moments(accelerator, model, optimizer, f"optimizer.{name}", parameter)
    for name, average in (averages or {}).items():
        yield from _placed(f"ema.{name}", average, main=main)


def _placed(name: str, tensor: Sharded, *, main: bool) -> Iterator[Piece]:
    """The piece of an FSDP2 tensor that this process stores, or an unsharded tensor on the main process."""
    if not hasattr(tensor, "to_local"):
        if main:
            yield Piece.whole(name, tensor)
        return
    copies = [place for place, kind in enumerate(tensor.placements) if kind.is_replicate()]
    if all(tensor.device_mesh.get_local_rank(place) == 0 for place in copies):  # otherwise another process has the same
        start, local = _range_of(tensor), tensor.detach().to_local()
        if local.numel() or start == 0:
            yield Piece(name, tuple(tensor.shape), start, local)


def _range_of(tensor: Sharded) -> int:
    """The position of an FSDP2 tensor's local shard in the flattened tensor."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    assert not any(offset[1:]), "FSDP2 shards the first dimension"
    return offset[0] * math.prod(tensor.shape[1:]) if offset else 0


def _weight(accelerator: Accelerator, name: str, parameter: Sharded) -> Iterator[Piece]:
    main = accelerator.is_main_process
    if hasattr(parameter, "ds_id"):
        yield from _of_zero3(name, parameter, None)
    elif _sharded_by_zero(accelerator) and parameter.requires_grad:
        yield from _fragment(name, parameter, None)
    else:
        yield from _placed(name, parameter, main=main)


def _moments(
    accelerator: Accelerator, model: Engine, optimizer: AcceleratedOptimizer, name: str, parameter: Sharded
) -> Iterator[Piece]:
    main = accelerator.is_main_process
    if not _sharded_by_zero(accelerator):
        for key, value in optimizer.optimizer.state.get(parameter, {}).items():
            yield from _placed(f"{name}.{key}", value if hasattr(value, "shape") else torch.as_tensor(value), main=main)
        return
    states = list(model.optimizer.optimizer.state.values())
    if states and "step" in states[0]:
        _link_zero_state(model.optimizer)
        if main:
            yield Piece.whole(f"{name}.step", torch.as_tensor(states[0]["step"]))
        for key in ("exp_avg", "exp_avg_sq"):
            yield from (_of_zero3 if hasattr(parameter, "ds_id") else _fragment)(f"{name}.{key}", parameter, key)


def _of_zero3(name: str, parameter: Sharded, key: str | None) -> Iterator[Piece]:
    """This process's shard of a parameter of ZeRO-3 (its fp32 master, if it is trained), or of its state `key`."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    if key is not None:
        values = safe_get_local_optimizer_state(parameter, key)
    else:
        values = safe_get_local_fp32_param(parameter) if parameter.requires_grad else local_shard(parameter)
    size, start = zero3_range(parameter)
    if size or start == 0:
        yield Piece(name, tuple(parameter.ds_shape), start, values[:size].detach())


def zero3_range(parameter: Sharded) -> tuple[int, int]:
    """Size and start of this process's shard of a parameter of ZeRO-3; the last shards are shorter, or empty."""
    whole = parameter.ds_tensor.ds_numel
    start = min(whole * torch.distributed.get_rank(), parameter.ds_numel)
    return min(whole, parameter.ds_numel - start), start


def local_shard(parameter: Sharded) -> torch.Tensor:
    """This process's shard of a parameter, in the type of the model; every process must call."""
    if not hasattr(parameter, "ds_id"):
        return parameter.to_local() if hasattr(parameter, "to_local") else parameter
    size, start = zero3_range(parameter)
    if _on_a_disk(parameter):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.flatten()[start : start + size].clone()
    return parameter.ds_tensor[:size]


def _on_a_disk(parameter: Sharded) -> bool:
    return parameter.ds_tensor.numel() < parameter.ds_tensor.ds_numel


def _fragment(name: str, parameter: Sharded, key: str | None) -> Iterator[Piece]:
    """What this process has of a trained parameter of ZeRO-1 or ZeRO-2: of its fp32 master, or of its state `key`."""
    if (mapping := parameter._hp_mapping) is not None:
        start, values = mapping.lp_fragment_address.start, mapping.get_hp_fragment(key)
        yield Piece(name, tuple(parameter.shape), start, values.detach())


# ---- what this process reads back


@torch.no_grad()
def load_parameters(accelerator: Accelerator, model: nn.Module, stored: Stored, prefix: str = "model.") -> None:
    """Restores parameters and buffers, sharded for the current strategy and processes. Every process must call.

    Raises:
        ValueError: a trainable parameter has no saved value, or a value has another shape.
    """
    module = accelerator.unwrap_model(model)
    for name, buffer in module.named_buffers():
        if prefix + name in stored:
            buffer.copy_(stored[prefix + name])
    for name, parameter in module.named_parameters():
        if prefix + name not in stored:
            if parameter.requires_grad:
                raise ValueError(f"the checkpoint has no {prefix}{name}: it belongs to another model")
            continue
        saved = tuple(stored.describe(prefix + name).shape)
        if saved != tuple(getattr(parameter, "ds_shape", parameter.shape)):
            shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
            raise ValueError(f"the checkpoint's {name} has shape {saved}, not {shape} as in this model")
        _load_weight(accelerator, parameter, stored, prefix + name)


def _load_weight(accelerator: Accelerator, parameter: Sharded, stored: Stored, name: str) -> None:
    if not _sharded_by_zero(accelerator):
        load_like(parameter, stored, name)
        return
    if parameter.requires_grad:
        _load_zero_shard(parameter, stored, name, None)
    if not hasattr(parameter, "ds_id"):
        parameter.copy_(stored[name])
    elif _on_a_disk(parameter) or getattr(parameter, "ds_secondary_tensor", None) is not None:
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(stored[name])
    else:
        size, start = zero3_range(parameter)
        parameter.ds_tensor[:size].copy_(stored.part(name, start, size))
        if parameter.numel() == parameter.ds_numel:  # small ones stay unsharded beside their shard
            parameter.copy_(stored[name])


def load_like(tensor: Sharded, stored: Stored, name: str) -> None:
    """Copies a stored tensor, or the shard of it that FSDP2 gives to this process, into `tensor`."""
    if hasattr(tensor, "to_local"):
        local = tensor.to_local()
        local.copy_(stored.part(name, _range_of(tensor), local.numel()).view(local.shape))
    else:
        tensor.copy_(stored[name])


def load_optimizer(
    accelerator: Accelerator, model: nn.Module, optimizer: AcceleratedOptimizer, stored: Stored
) -> list[str]:
    """Restores the optimizer's state; returns the trained parameters without a state.

    Raises:
        ValueError: the state belongs to another optimizer, or does not fit the parameters; then nothing is restored.
    """
    saved: dict[str, list[str]] = {}  # parameter -> keys of its state
    for entry in stored:
        if entry.startswith("optimizer."):
            name, key = entry.removeprefix("optimizer.").rsplit(".", 1)
            saved.setdefault(name, []).append(key)
    trained = {n: p for n, p in accelerator.unwrap_model(model).named_parameters() if p.requires_grad}
    states = {n: {key: stored.describe(f"optimizer.{n}.{key}") for key in saved[n]} for n in trained if n in saved}
    plain = getattr(optimizer, "optimizer", optimizer)
    problems = [problem for name, state in states.items() for problem in misfits(plain, name, trained[name], state)]
    if problems:
        shown = "\n  ".join([*problems[:9], *([f"and {len(problems) - 9} more"] if len(problems) > 9 else [])])
        raise ValueError(
            f"the checkpoint's optimizer state does not fit this run:\n  {shown}\nIt was changed, or saved by another "
            "optimizer or for another model: resume from another checkpoint"
        )
    for name, state in states.items():
        _load_moments(accelerator, model, optimizer, trained[name], stored, f"optimizer.{name}", list(state))
    return [name for name in trained if name not in states]


@torch.no_grad()
def _load_moments(
    accelerator: Accelerator,
    model: Engine,
    optimizer: AcceleratedOptimizer,
    parameter: Sharded,
    stored: Stored,
    name: str,
    keys: list[str],
) -> None:
    if _sharded_by_zero(accelerator):
        _create_zero_state(model.optimizer, stored[f"{name}.step"])
        for key in ("exp_avg", "exp_avg_sq"):
            _load_zero_shard(parameter, stored, f"{name}.{key}", key)
        return
    fused = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"])).get("fused")

    def placed(key: str) -> torch.Tensor:
        entry = f"{name}.{key}"
        if key == "step":  # only fused kernels count on the device
            return stored[entry].to(parameter.device if fused else "cpu", copy=True)
        if hasattr(parameter, "to_local") and stored.describe(entry).shape == parameter.shape:
            moment = torch.empty_like(parameter)
            load_like(moment, stored, entry)
            return moment
        return stored[entry].to(parameter.device, copy=True)

    optimizer.optimizer.state[parameter] = {key: placed(key) for key in keys}


def _load_zero_shard(parameter: Sharded, stored: Stored, name: str, key: str | None) -> None:
    """Reads this process's shard of a tensor into its fp32 master (key None) or optimizer state."""
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    if not hasattr(parameter, "ds_id"):
        if (mapping := parameter._hp_mapping) is not None:
            address = mapping.lp_fragment_address
            mapping.get_hp_fragment(key).copy_(stored.part(name, address.start, address.numel))
        return
    size, start = zero3_range(parameter)
    shard = stored.part(name, start, size).to(parameter.device, torch.float32)
    shard = nn.functional.pad(shard, (0, parameter.ds_tensor.numel() - size))
    if key:
        safe_set_local_optimizer_state(parameter, shard, key)
    else:
        safe_set_local_fp32_param(parameter, shard)


def _sharded_by_zero(accelerator: Accelerator) -> bool:
    return zero_stage(accelerator) > 0


def _create_zero_state(zero: Engine, step: torch.Tensor) -> None:
    """Creates AdamW's state before its first step, so that a resumed run can write into it."""
    names = ("fp32_partitioned_groups_flat", "fp32_groups_flat_partition", "single_partition_of_fp32_groups")
    masters = next(name for name in names if hasattr(zero, name))  # of stage 3, of stage 1 in bf16, of stages 1 and 2
    for piece in getattr(zero, masters):
        if "exp_avg" not in zero.optimizer.state[piece]:
            moments = {key: torch.zeros_like(piece) for key in ("exp_avg", "exp_avg_sq")}
            zero.optimizer.state[piece] = {"step": step.clone(), **moments}
    _link_zero_state(zero)


def _link_zero_state(zero: Engine) -> None:
    """Links the parameters of ZeRO-1/2 to their state; DeepSpeed does so only if the first group alone has any."""
    if hasattr(zero, "_hp_optimizer_states_linked"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()
