"""One run on any number of processes: what plain, DDP, FSDP2 and DeepSpeed ZeRO runs do differently stands here and
nowhere else."""

import ctypes
import math
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import nn


def make_accelerator(
    *,
    mixed_precision: str = "no",
    max_grad_norm: float = 1.0,
    timeout_seconds: float = 1800,
    log_with: Sequence[str] = (),
    project_dir: str | None = None,
) -> Accelerator:
    """Joins the processes that `accelerate launch`, torchrun or nobody started.

    Raises:
        ValueError: fp16 without a GPU; DeepSpeed, FSDP or a tracker asked for and dropped by Accelerate.
    """
    on_cpu = not torch.accelerator.is_available()
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    if mixed_precision == "fp16" and on_cpu:
        raise ValueError(
            "fp16 needs a GPU: its small gradients need a scaler that PyTorch has there only. Set bf16 or neither"
        )
    several = "WORLD_SIZE" in os.environ
    if on_cpu and not several and "MASTER_ADDR" in os.environ:
        warnings.warn(
            "accelerate launch found no GPU and started one process where several were asked for. The results are "
            "the same, only slower; it starts several on CPUs with: accelerate launch --multi_gpu --num_processes N",
            stacklevel=2,
        )
    if on_cpu:
        os.environ.setdefault(
            "DS_ACCELERATOR", "cpu"
        )  # Accelerate imports DeepSpeed where it is installed, and it would warn
    timeout = timedelta(seconds=timeout_seconds)
    accelerator = Accelerator(
        # cpu=True makes Accelerate drop DeepSpeed without a word; left out, it ignores torchrun's processes on a CPU
        cpu=on_cpu and not deepspeed,
        mixed_precision=mixed_precision,
        # without the backend's name, Accelerate takes each DeepSpeed process on a CPU for the only one
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo" if on_cpu and several else None, timeout=timeout)],
        # over 1, DeepSpeed keeps its accumulation buffers; where a step ends we say ourselves
        gradient_accumulation_steps=2 if deepspeed else 1,
        log_with=list(log_with) or None,
        project_dir=project_dir,
    )
    if dropped := [name for name in log_with if name not in map(str, accelerator.log_with)]:
        raise ValueError(f"report_to {dropped[0]} needs the package {dropped[0]}: pip install {dropped[0]}")
    plugin = accelerator.state.deepspeed_plugin
    if deepspeed and plugin is None:
        raise ValueError(
            "the launcher asked for DeepSpeed, but Accelerate dropped it: remove use_cpu from the launch file"
        )
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if fsdp and accelerator.num_processes > 1 and accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            "the launcher asked for FSDP, but Accelerate dropped it, as it does on CPUs, and would run plain DDP: "
            "launch without --use_fsdp, or with --use_deepspeed --zero_stage 3"
        )
    if plugin is not None:
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only multiplies it; the real cut changes from step to step
            "gradient_accumulation_steps": 2,
            "gradient_clipping": max_grad_norm,  # DeepSpeed clips inside its step
            "steps_per_print": sys.maxsize,
        }
        if "bf16" in plugin.deepspeed_config:
            plugin.deepspeed_config["bf16"]["check_grad_overflow"] = True  # else a NaN would reach the weights
        if plugin.zero_stage == 3:
            plugin.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    return accelerator


def was_launched() -> bool:
    """Whether `accelerate launch` or torchrun started this process."""
    return "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def die_with_parent() -> None:
    """Asks Linux to send SIGTERM when the launcher dies: a killed `accelerate launch` leaves no orphan that trains
    on."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        parent = os.getppid()
        # Killed before this line, while we imported, it has left us to a process that adopts orphans, of another group.
        # (torchrun gives its processes groups of their own; without it they find no rendezvous.)
        adopter = parent == 1 or Path(f"/proc/{parent}/comm").read_text() == "systemd\n"
        if adopter and "WORLD_SIZE" not in os.environ and os.getpgid(parent) != os.getpgrp():
            sys.exit("the launcher is gone")
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died between the two calls
            sys.exit("the launcher is gone")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Of a GPU, or of the allocator on the CPU, which has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def zero_stage(accelerator: Accelerator) -> int:
    """0 without DeepSpeed."""
    return (
        accelerator.state.deepspeed_plugin.zero_stage
        if accelerator.distributed_type == DistributedType.DEEPSPEED
        else 0
    )


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether a process holds only pieces of the parameters or of the optimizer's state."""
    return accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)


def total(accelerator: Accelerator, *values: float) -> list[float]:
    """Each value summed over the processes, in fp64."""
    if accelerator.num_processes == 1:
        return [float(v) for v in values]
    device = "cpu" if torch.distributed.get_backend() == "gloo" else accelerator.device
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(sums)
    return sums.tolist()


def backward(accelerator: Accelerator, model: Any, value: torch.Tensor, *, last: bool) -> None:
    """Adds the gradients of one micro-batch; they are averaged over the processes with the step's `last`."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        model.set_gradient_accumulation_boundary(last)
        model.backward(value, scale_wrt_gas=False)
    elif accelerator.scaler is not None:
        accelerator.scaler.scale(value).backward()
    else:
        value.backward()


def accumulating(accelerator: Accelerator, model: Any, *, last: bool) -> AbstractContextManager:
    """The context of a micro-batch's forward and backward; nothing is exchanged between processes before the `last`."""
    if last or accelerator.distributed_type == DistributedType.DEEPSPEED:
        return nullcontext()
    return accelerator.no_sync(model)


def average_gradients(accelerator: Accelerator, model: Any) -> None:
    """Averages gradients that were all accumulated without an exchange."""
    if accelerator.num_processes > 1:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= accelerator.num_processes


def exchange_nothing_in_forward(model: Any) -> None:
    """DDP sends buffers round in the first forward pass, where a process out of memory would not appear; they are equal
    already. It does so again only after a backward pass that exchanges gradients."""
    model.require_forward_param_sync = False


def clip_and_step(accelerator: Accelerator, model: Any, optimizer: Any, max_grad_norm: float) -> float:
    """Clips to `max_grad_norm` (0: not), takes the optimizer step unless the norm is not finite, and clears the
    gradients.

    Returns:
        the norm of the whole gradient before clipping, equal on every process.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        model.step()  # clips; leaves the weights alone when the norm is not finite
        return float(model.get_global_grad_norm())
    norm = float(accelerator.clip_grad_norm_(model.parameters(), max_grad_norm or float("inf")))
    if accelerator.scaler is not None or math.isfinite(norm):
        optimizer.step()  # with fp16 the scaler skips the step and lowers its scale
    optimizer.zero_grad()
    return norm


def clear_gradients(accelerator: Accelerator, model: Any, optimizer: Any) -> None:
    """Throws away what a step that will not be taken has accumulated."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        model.zero_grad()
        if hasattr(model.optimizer, "zero_grad"):
            model.optimizer.zero_grad(set_to_none=True)
    optimizer.zero_grad()


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


# ---- the state of training as named, whole tensors: the same under every strategy and number of processes ----


def named_state(accelerator: Accelerator, model: Any, optimizer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """`model.NAME` (fp32 masters, buffers) and `optimizer.NAME.KEY`, whole, on the CPU. Every process has to iterate.

    A PEFT model gives only what trains: the base is read from where it came from.
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


def load_parameters(
    accelerator: Accelerator, model: Any, tensors: Mapping[str, torch.Tensor], prefix: str = "model."
) -> None:
    """Puts back the parameters and buffers that `named_state` gave, cut for the strategy and the processes of now.

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
                raise ValueError(f"the checkpoint has no {prefix}{name}: it is of another model")
            continue
        value, shape = tensors[prefix + name], tuple(getattr(parameter, "ds_shape", parameter.shape))
        if tuple(value.shape) != shape:
            raise ValueError(
                f"the checkpoint's {name} has shape {tuple(value.shape)}, the model's {shape}: it is of another model"
            )
        _set_whole(accelerator, parameter, value)


def load_optimizer(accelerator: Accelerator, model: Any, optimizer: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts back the optimizer's state that `named_state` gave."""
    saved: dict[str, list[str]] = {}  # parameter -> keys of its state
    for entry in tensors:
        if entry.startswith("optimizer."):
            name, key = entry.removeprefix("optimizer.").rsplit(".", 1)
            saved.setdefault(name, []).append(key)
    for name, parameter in accelerator.unwrap_model(model).named_parameters():
        if parameter.requires_grad and name in saved:
            state = {key: tensors[f"optimizer.{name}.{key}"] for key in saved[name]}
            _set_optimizer_state(accelerator, model, optimizer, parameter, state)


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
    accelerator: Accelerator, model: Any, optimizer: Any, parameter: nn.Parameter
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
    accelerator: Accelerator, model: Any, optimizer: Any, parameter: nn.Parameter, state: dict[str, torch.Tensor]
) -> None:
    if not _sharded_by_zero(accelerator):
        fused = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"])).get("fused")

        def placed(key: str, value: torch.Tensor) -> torch.Tensor:
            if key == "step":  # only fused kernels count on the device
                return value.to(parameter.device if fused else "cpu", copy=True)
            whole = value.shape == parameter.shape  # not so Adafactor's rows and columns
            return cut_like(parameter, value) if whole else value.to(parameter.device, copy=True)

        optimizer.optimizer.state[parameter] = {key: placed(key, value) for key, value in state.items()}
        return
    _create_zero_state(model.optimizer, state["step"])
    for key in ("exp_avg", "exp_avg_sq"):
        _set_zero_piece(parameter, state[key], key)


def cut_like(like: Any, value: torch.Tensor) -> torch.Tensor:
    """`value`, sharded as `like` is (FSDP2), or on its device."""
    if hasattr(like, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements)
    return value.to(like.device, copy=True)


def _sharded_by_zero(accelerator: Accelerator) -> bool:
    return zero_stage(accelerator) > 0


def _set_zero_piece(parameter: Any, value: torch.Tensor, key: str | None) -> None:
    """Writes this process's piece of `value` into its fp32 master (key None) or optimizer state."""
    from deepspeed import utils

    value = value.to(parameter.device, torch.float32)
    if not hasattr(parameter, "ds_id"):
        setter = utils.safe_set_full_optimizer_state if key else utils.safe_set_full_fp32_param
    else:  # DeepSpeed's own whole setter of stage 3 fails where the pieces are padded
        setter = utils.safe_set_local_optimizer_state if key else utils.safe_set_local_fp32_param
        size, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank()
        padded = nn.functional.pad(value.flatten(), (0, size * torch.distributed.get_world_size() - value.numel()))
        value = padded[size * rank : size * (rank + 1)]
    setter(parameter, value, *([key] if key else []))


def _create_zero_state(zero: Any, step: torch.Tensor) -> None:
    """AdamW makes its state at the first step; a resumed run needs the places to write into before."""
    stage_3 = hasattr(zero, "fp32_partitioned_groups_flat")
    for piece in zero.fp32_partitioned_groups_flat if stage_3 else zero.single_partition_of_fp32_groups:
        if "exp_avg" not in zero.optimizer.state[piece]:
            moments = {key: torch.zeros_like(piece) for key in ("exp_avg", "exp_avg_sq")}
            zero.optimizer.state[piece] = {"step": step.clone(), **moments}
    _link_zero_state(zero)


def _link_zero_state(zero: Any) -> None:
    """Tells the parameters of ZeRO-1/2 where their state is; DeepSpeed does so when only the first group has any."""
    if hasattr(zero, "_hp_optimizer_states_linked"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()
