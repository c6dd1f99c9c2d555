"""Refuses a run that exceeds the memory before anything is moved there."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from hftrain.config import TrainConfig
from hftrain.distributed import zero_stage
from hftrain.train.forecast.passes import Pass, count_pass, without_numbers
from hftrain.train.forecast.strategies import needs, weigh_model
from hftrain.train.forecast.table import batch_of
from hftrain.train.inspect import View
from hftrain.train.trials.memory import same_randomness

logger = logging.getLogger(__name__)


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


def micro_batch_of(config: TrainConfig, longest: int, examples: int) -> int:
    """The number of examples of the smallest micro-batch that the settings allow, of the longest examples."""
    if config.halve_on_oom:
        return 1
    most = config.micro_batch_tokens // longest if config.micro_batch_tokens else config.micro_batch_size or 1
    return max(1, min(most, examples))


def first_pass(model: Any, view: View, processes: int, *, narrow: bool) -> tuple[Pass, bool]:
    """What the smallest micro-batch takes, and whether a step has several; no bytes if that cannot be counted: weights
    in shards or in 4 bits, or passes that depend on numbers."""
    config, order = view.config, np.argsort(-view.plan.tokens, kind="stable")
    step = -(-len(view.plan.examples(0)) // processes)
    count = micro_batch_of(config, int(view.plan.tokens[order[0]]), step)
    sharded = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    if sharded or getattr(model, "is_quantized", False) or view.loss is None:
        return Pass(0, 0, 0), step > count
    try:
        with same_randomness():
            one = count_pass(
                without_numbers(model), batch_of(view, order[:count]), view.loss, bf16=bool(config.bf16),
                narrow=narrow, checkpointing=config.activation_checkpointing, selective=config.selective_checkpointing,
            )  # fmt: skip
    except Exception as error:  # of the model's or the recipe's own code, which may need numbers
        logger.info("activations cannot be counted (%s: %s)", type(error).__name__, error)
        return Pass(0, 0, 0), step > count
    return one, step > count


def require_room(accelerator: Accelerator, model: Any, view: View) -> None:
    """Compares what a run needs, as `hftrain plan` counts it, with the memory. Activations count where memory is
    scarce: on a GPU, or where everything else takes over half of it.

    Raises:
        ValueError: the run needs more than there is, even with the smallest micro-batch that its settings allow.
    """
    config, processes = view.config, accelerator.num_processes
    strategy, memory, weights = strategy_of(accelerator), memory_of(accelerator.device), weigh_model(model)
    bf16 = bool(config.bf16)
    need = needs(strategy, weights, Pass(0, 0, 0), processes, bf16=bf16, optim=config.optim)
    if need.peak <= memory and (accelerator.device.type == "cuda" or need.peak > memory / 2):
        one, several = first_pass(model, view, processes, narrow=bf16 and strategy not in ("one device", "DDP"))
        need = needs(strategy, weights, one, processes, bf16=bf16, optim=config.optim, accumulated=several)
    if need.peak > memory:
        raise ValueError(
            f"{type(model).__name__} cannot be trained on {processes} x {memory / 2**30:.1f} GiB under "
            f"{strategy}: weights ({need.weights / 2**30:.1f} GiB), gradients ({need.gradients / 2**30:.1f}), "
            f"optimizer ({need.optimizer / 2**30:.1f}), exchange ({need.exchange / 2**30:.1f}) and activations of the "
            f"longest examples ({need.activations / 2**30:.1f}) exceed that. `hftrain plan` shows what fits: smaller "
            "micro-batches or shorter examples, activation_checkpointing, more processes, another file of "
            "ds_configs/, bf16, or use_peft where the recipe has it"
        )
