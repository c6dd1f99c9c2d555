"""Processes of which one fails alone while the others wait for it, without a launcher that would end them."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator

from hftrain.distributed import add_up, make_accelerator
from hftrain.models.load import load_model, load_tokenizer
from hftrain.tasks.chat import ChatRecipeConfig
from tests.programs import free_port
from tests.train.resume_worker import FORKING


def load(accelerator: Accelerator, folder: Path) -> None:
    os.environ["ACCELERATE_USE_FSDP"] = "true"  # the main process alone reads
    config = ChatRecipeConfig(train_file="-", model_name_or_path=str(folder))
    load_model(config, transformers.AutoModelForCausalLM)


def read(accelerator: Accelerator, folder: Path) -> None:
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            load_tokenizer(ChatRecipeConfig(train_file="-", model_name_or_path=str(folder / "nothing")))


def step(accelerator: Accelerator, folder: Path) -> None:
    if not accelerator.is_main_process:
        raise ValueError("this row cannot be read")
    add_up(accelerator, torch.ones(1))


PHASES: dict[str, Callable[[Accelerator, Path], None]] = {"load": load, "read": read, "step": step}


def start(phase: str, folder: Path, out: Path) -> list[multiprocessing.Process]:
    """Two processes, which write OUT-0 and OUT-1."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = [FORKING.Process(target=_run, args=(phase, folder, out, rank, shared)) for rank in (0, 1)]
    for process in started:
        process.start()
    return started


def _run(phase: str, folder: Path, out: Path, rank: int, shared: dict[str, str]) -> None:
    os.environ.update(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    with open(f"{out}-{rank}", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        PHASES[phase](make_accelerator(timeout_seconds=40), folder)
    except Exception:  # multiprocessing would print it past the interpreter's hook
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        os._exit(1)
