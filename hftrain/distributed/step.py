"""The differences of the strategies in a step: gradients, their exchange, their norm, the optimizer."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.nn.parallel import DistributedDataParallel

from hftrain.distributed.watch import moved

if TYPE_CHECKING:
    from torch.optim import Optimizer


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, on a GPU or in the allocator of the CPU, which has no own exception."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def zero_stage(accelerator: Accelerator) -> int:
    """The ZeRO stage; 0 without DeepSpeed."""
    return (
        accelerator.state.deepspeed_plugin.zero_stage
        if accelerator.distributed_type == DistributedType.DEEPSPEED
        else 0
    )


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether a process holds only shards of the parameters or of the optimizer's state."""
    return accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)


def describe(accelerator: Accelerator) -> str:
    """The device, the number of processes and the strategy, in words."""
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    if precision == "fp32" and accelerator.device.type == "cuda":
        tf32 = torch.get_float32_matmul_precision() != "highest"
        precision = "fp32 in TF32" if tf32 else "fp32 without TF32 (bf16 is several times as fast)"
    alone = f"{accelerator.device.type}, {precision}"
    if accelerator.num_processes == 1:
        return alone
    strategy = f"ZeRO-{zero_stage(accelerator)}" if zero_stage(accelerator) else "DDP"
    if accelerator.distributed_type == DistributedType.FSDP:
        strategy = "FSDP2"
    return f"{alone}, {accelerator.num_processes} processes, {strategy}"


def total(accelerator: Accelerator, *values: float) -> list[float]:
    """Each value summed over the processes, in fp64."""
    if accelerator.num_processes == 1:
        return [float(v) for v in values]
    device = "cpu" if torch.distributed.get_backend() == "gloo" else accelerator.device
    sums: list[float] = add_up(accelerator, torch.tensor(values, dtype=torch.float64, device=device)).tolist()
    return sums


def add_up(accelerator: Accelerator, values: torch.Tensor) -> torch.Tensor:
    """`values` summed over the processes in place; a GPU is not waited for."""
    if accelerator.num_processes > 1:
        torch.distributed.all_reduce(values)
        moved()
    return values


def backward(accelerator: Accelerator, model: Any, value: torch.Tensor, *, last: bool) -> None:
    """Adds the gradients of one micro-batch; they are averaged over the processes with the step's `last`."""
    if last and isinstance(model, DistributedDataParallel):  # it waits for a gradient of each parameter
        reached = leaves(value)
        missing = [p for p in model.parameters() if p.requires_grad and id(p) not in reached]
        value = ZeroGradients.apply(value, *missing) if missing else value
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        model.set_gradient_accumulation_boundary(last)
        model.backward(value, scale_wrt_gas=False)
    elif accelerator.scaler is not None:
        accelerator.scaler.scale(value).backward()
    else:
        value.backward()


class ZeroGradients(torch.autograd.Function):
    """Returns a value unchanged; the given parameters get gradients of zeros."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.parameters = parameters
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return gradient, *map(torch.zeros_like, ctx.parameters)


def leaves(value: torch.Tensor) -> set[int]:
    """Ids of the parameters that a value was computed from."""
    ids: set[int] = set()
    seen: set[Any] = {None}
    ahead: list[Any] = [value.grad_fn]
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                ids.add(id(node.variable))
            ahead += [following for following, _ in node.next_functions]
    return ids


def accumulating(accelerator: Accelerator, model: Any, *, last: bool) -> AbstractContextManager:
    """The context of a micro-batch's forward and backward. DDP exchanges nothing before the `last`. ZeRO-2, ZeRO-3 and
    FSDP2 exchange in each micro-batch: otherwise every process would hold the unsharded gradients of the model."""
    if last or is_sharded(accelerator):
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
    """Stops DDP from broadcasting buffers in the first forward pass, in which a process out of memory would be missing;
    they are equal already. It broadcasts again only after a backward pass that exchanges gradients."""
    model.require_forward_param_sync = False


def clip_and_step(
    accelerator: Accelerator,
    model: Any,
    parameters: list[torch.nn.Parameter],
    optimizer: Optimizer,
    max_grad_norm: float,
) -> float:
    """Clips to `max_grad_norm` (0: no clipping), takes the optimizer step unless the norm is not finite, and clears the
    gradients.

    Args:
        parameters: all parameters of the model; collecting them here would take longer than clipping a small model.

    Returns:
        the norm of the complete gradient before clipping, equal on every process.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        model.step()  # clips; leaves the weights alone when the norm is not finite
        return float(model.get_global_grad_norm())
    for parameter in parameters:
        if parameter.requires_grad and parameter.grad is None:  # like ZeRO: weights and moments decay everywhere
            parameter.grad = torch.zeros_like(parameter)
    norm = clip(accelerator, parameters, max_grad_norm or math.inf)
    if accelerator.scaler is not None or math.isfinite(norm):
        optimizer.step()  # with fp16 the scaler skips the step and lowers its scale
    optimizer.zero_grad()
    return norm


def clip(accelerator: Accelerator, parameters: list[torch.nn.Parameter], limit: float) -> float:
    """Clips the gradients to the norm `limit` and returns their norm; one within the limit is read once, not
    multiplied by 1."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return float(accelerator.clip_grad_norm_(parameters, limit))
    accelerator.unscale_gradients()
    total = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    norm = float(total)  # the one point at which a GPU is waited for
    if not norm < limit - 2e-6:  # torch adds 1e-6 to the norm
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, total)
    return norm


def clear_gradients(accelerator: Accelerator, model: Any, optimizer: Optimizer) -> None:
    """Discards the accumulated gradients of a skipped step."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        model.zero_grad()
        if hasattr(model.optimizer, "zero_grad"):
            model.optimizer.zero_grad(set_to_none=True)
    optimizer.zero_grad()


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("share", 1.0)
