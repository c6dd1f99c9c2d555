"""Versions and hardware of a run, without the name of a person or a host."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator

PACKAGES = ("hftrain", "torch", "transformers", "accelerate", "datasets", "tokenizers", "evaluate", "peft", "deepspeed")


def environment(accelerator: Accelerator | None = None) -> dict[str, Any]:
    """Versions, hardware and number of processes of this run, JSON-ready; no host name, user name or folder.

    World size and precision are those of the `accelerate.Accelerator`; without one, WORLD_SIZE counts.
    """
    details: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **hardware(),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")) if accelerator is None else accelerator.num_processes,
    }
    if accelerator is not None:
        details["mixed_precision"] = accelerator.mixed_precision
        details["distributed"] = str(accelerator.distributed_type).rpartition(".")[2]
    for package in PACKAGES:
        try:
            details[package] = version(package)
        except PackageNotFoundError:
            continue
    if commit := _git_commit():
        details["git_commit"] = commit
    return details


def hardware() -> dict[str, Any]:
    return {"cpu": _cpu(), "gpus": _gpus()}


def _cpu() -> str:
    # /proc/cpuinfo names the model; platform.processor() is empty on most Linux systems.
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{names[0] if names else platform.machine()}, {cores} core{'s' if cores > 1 else ''}"


def _gpus() -> list[str]:
    import torch

    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in properties]


def _git_commit() -> str | None:
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no")
    return f"{commit} with uncommitted changes" if commit and changes else commit
