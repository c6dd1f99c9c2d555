"""Refuses a run whose weights, gradients and optimizer alone exceed the memory, before anything is moved there."""

from __future__ import annotations

import os
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from hftrain.config import TrainConfig
from hftrain.distributed import zero_stage
from hftrain.train.forecast.passes import Pass
from hftrain.train.forecast.strategies import needs, weigh_model


def memory_of(device: torch.device) -> int:
    """Bytes of memory of a GPU, or of this machine for each of its processes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return psutil.virtual_memory().total // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def strategy_of(accelerator: Accelerator) -> str:
    """The name of the strategy in `hftrain plan`."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return "FSDP2"
    if stage := zero_stage(accelerator):
        plugin: Any = accelerator.state.deepspeed_plugin
        offloads = plugin.deepspeed_config["zero_optimization"].get("offload_optimizer")
        return "offload" if offloads and stage == 3 else f"ZeRO-{stage}"
    return "one device" if accelerator.num_processes == 1 else "DDP"


def require_room(accelerator: Accelerator, model: Any, config: TrainConfig) -> None:
    """Raises: ValueError, the run needs more than the memory even without activations."""
    strategy, memory = strategy_of(accelerator), memory_of(accelerator.device)
    need = needs(
        strategy, weigh_model(model), Pass(0, 0, 0), accelerator.num_processes, bf16=bool(config.bf16),
        optim=config.optim,
    )  # fmt: skip
    if need.peak > memory:
        raise ValueError(
            f"{type(model).__name__} cannot be trained on {accelerator.num_processes} x {memory / 2**30:.1f} GiB under "
            f"{strategy}: weights ({need.weights / 2**30:.1f} GiB), gradients ({need.gradients / 2**30:.1f}), "
            f"optimizer ({need.optimizer / 2**30:.1f}) and exchange ({need.exchange / 2**30:.1f}) exceed that without "
            "any activations. `hftrain plan` shows what fits: more processes, another file of ds_configs/, bf16, or "
            "use_peft where the recipe has it"
        )
