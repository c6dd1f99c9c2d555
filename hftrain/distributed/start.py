"""Joins the processes of a run, with the strategy of its launcher."""

import atexit
import ctypes
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs

from hftrain.distributed.compiling import bound_waiting
from hftrain.distributed.deepspeed_file import find_deepspeed_file
from hftrain.distributed.waiting import wait_in_store
from hftrain.distributed.watch import beat_seconds, watch_over


def make_accelerator(
    *,
    mixed_precision: str = "no",
    max_grad_norm: float = 1.0,
    timeout_seconds: float = 1800,
    log_with: Sequence[str] = (),
    project_dir: str | None = None,
) -> Accelerator:
    """Joins the processes of `accelerate launch` or torchrun, or a single process without a launcher.

    Raises:
        ValueError: fp16 without a GPU; Accelerate dropped the requested DeepSpeed, FSDP or tracker; a DeepSpeed file
            has a mistake.
    """
    expand_segments()
    on_cpu = not torch.accelerator.is_available()
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    if mixed_precision == "fp16" and on_cpu:
        raise ValueError(
            "fp16 needs a GPU: PyTorch scales its small gradients only there. Set bf16, or neither of the two"
        )
    several = "WORLD_SIZE" in os.environ
    if on_cpu and not several and "MASTER_ADDR" in os.environ:
        warnings.warn(
            "accelerate launch found no GPU and started one process instead of several. The results are "
            "the same, only slower; to start several on CPUs: accelerate launch --multi_gpu --num_processes N",
            stacklevel=2,
        )
    if deepspeed and (file := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")).endswith(".json"):
        os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(find_deepspeed_file(file))
    bound_waiting()
    wait_in_store()
    # the watch reports first, with names
    timeout = timedelta(seconds=timeout_seconds + 6 * beat_seconds(timeout_seconds))
    join_again(timeout)
    accelerator = Accelerator(
        # cpu=True makes Accelerate silently drop DeepSpeed; without it, it ignores torchrun's processes on a CPU
        cpu=on_cpu and not deepspeed,
        mixed_precision=mixed_precision,
        # without the backend's name, Accelerate treats each DeepSpeed process on a CPU as the only one
        kwargs_handlers=[
            InitProcessGroupKwargs(backend="gloo" if on_cpu and several else None, timeout=timeout),
            # a step of one micro-batch has each gradient once, in the bucket of its exchange
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        ],
        # above 1, DeepSpeed keeps its accumulation buffers; we tell it where a step ends
        gradient_accumulation_steps=2 if deepspeed else 1,
        log_with=list(log_with) or None,
        project_dir=project_dir,
    )
    if dropped := [name for name in log_with if name not in map(str, accelerator.log_with)]:
        raise ValueError(f"report_to {dropped[0]} needs the package {dropped[0]}: pip install {dropped[0]}")
    plugin = accelerator.state.deepspeed_plugin
    if deepspeed and plugin is None:
        raise ValueError(
            "the launcher requested DeepSpeed, but Accelerate dropped it: remove use_cpu from the launch file"
        )
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if fsdp and accelerator.num_processes > 1 and accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            "the launcher requested FSDP, but Accelerate dropped it, as always on CPUs, and would run plain DDP: "
            "launch without --use_fsdp, or with --use_deepspeed --zero_stage 3"
        )
    if plugin is not None:
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only multiplies by it; the real size varies
            "gradient_accumulation_steps": 2,
            "gradient_clipping": max_grad_norm,  # DeepSpeed clips inside its step
            "steps_per_print": sys.maxsize,
        }
        if "bf16" in plugin.deepspeed_config:
            plugin.deepspeed_config["bf16"]["check_grad_overflow"] = True  # otherwise a NaN would reach the weights
        if plugin.zero_stage == 3:
            plugin.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    if accelerator.distributed_type == DistributedType.FSDP:
        sharding = accelerator.state.fsdp_plugin
        if sharding.fsdp_version != 2:
            raise ValueError("the launcher requested FSDP 1, which hftrain does not support: set fsdp_version 2")
        sharding.cpu_ram_efficient_loading = True  # `prepare` sends the weights of the main process to all
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # transformers would leave weights out without a trace
        if "FSDP_TRANSFORMER_CLS_TO_WRAP" not in os.environ:
            # otherwise these are the layers of the first model that this program trained
            sharding.transformer_cls_names_to_wrap = None
    atexit.register(part)  # runs after the watch has left: exit functions run from the last to the first
    watch_over(accelerator.process_index, accelerator.num_processes, timeout_seconds)
    return accelerator


def expand_segments() -> None:
    """Lets the allocator of NVIDIA's GPUs grow its segments, unless its settings are given: lengths that change would
    leave memory in pieces that are too small. It reads the variable when it hands out the first byte."""
    given = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys()
    if sys.platform == "linux" and torch.version.cuda and torch.cuda.is_available() and not given:
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def part() -> None:
    """Leaves the process group at the very end of the program, as NCCL requires.

    Not after an error: the other processes may be gone, and NCCL would wait for them.
    """
    if dist.is_initialized() and not hasattr(sys, "last_value"):
        dist.destroy_process_group()
        # A thread of gloo frees the tensors of its last collective after the main thread has returned from it. It needs
        # Python's lock for that; once Python ends, waiting for the lock aborts the program.
        time.sleep(0.1)


def join_again(timeout: timedelta) -> None:
    """Joins the processes that torchrun restarted after a failure.

    torchrun uses one store for all attempts, and torch 2.13 reads the addresses of dead processes from it, so some
    restarts would hang. Here each attempt has its own keys.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or dist.is_initialized():
        return
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)
    dist.init_process_group(
        dist.get_default_backend_for_device(torch.accelerator.current_accelerator() or "cpu"),
        store=dist.PrefixStore(f"attempt-{attempt}", store),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timeout,
    )


def was_launched() -> bool:
    """Whether `accelerate launch` or torchrun started this process."""
    return "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def die_with_parent() -> None:
    """Asks Linux to send SIGTERM when the launcher dies, so that a killed `accelerate launch` leaves no orphan that
    continues to train."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        parent = os.getppid()
        # If it was killed before this line, during our imports, our parent is a process that adopts orphans.
        # (torchrun gives its processes their own groups; without it they find no rendezvous.)
        adopter = parent == 1 or Path(f"/proc/{parent}/comm").read_text() == "systemd\n"
        if adopter and "WORLD_SIZE" not in os.environ and os.getpgid(parent) != os.getpgrp():
            sys.exit("the launcher is gone")
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died between the two calls
            sys.exit("the launcher is gone")
