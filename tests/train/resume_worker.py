"""A small real run, for tests to stop, kill and break: a decoder with dropout on random tokens.

Tests call `train`, `fork` it, or launch this file. The faults it can have are settings.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file

from hftrain.config import TrainConfig, parse
from hftrain.data.examples import Examples
from hftrain.losses import Loss, causal_language_model, count_next_labels
from hftrain.models import TransformerConfig, TransformerForCausalLM
from hftrain.train import checkpoint
from hftrain.train.evaluation import mean_loss
from hftrain.train.loop import fit, start
from tests.programs import free_port

torch.set_num_threads(1)
HELD_OUT = 6
FORKING = multiprocessing.get_context("forkserver")  # one process that has imported all this, and forks
FORKING.set_forkserver_preload(["tests.train.resume_worker"])


class BrokenOff(Exception):
    """A run that ended in the middle."""


def break_off(at):
    """For `after_step` of `fit`: raises BrokenOff after step `at`."""

    def after_step(step, model):
        if step == at:
            raise BrokenOff

    return after_step


@dataclass
class WorkerConfig(TrainConfig):
    """A small run: 3 steps an epoch, 12 in all."""

    seed: int = 3
    global_batch_size: int | None = 8
    max_steps: int | None = 12
    learning_rate: float = 1e-2
    lr_scheduler_type: Any = "cosine"
    warmup_steps: float | None = 0.05
    logging_steps: float = 2
    eval_steps: float = 3
    save_steps: float = 4
    dropout: float = 0.1
    """Of the model."""
    width: int = 16
    """Of the model."""
    examples: int = 20
    """To train on."""
    masked_step: bool = False
    """No example has a label."""
    nonfinite_rows: list[int] = field(default_factory=list)
    """Examples that make the loss NaN."""
    nonfinite_gradient: bool = False
    """They make the gradient NaN instead, of a finite loss."""
    oom_rows: int | None = None
    """Examples in a micro-batch that still fit into memory."""
    oom_rank: int | None = None
    """The one process whose memory is that small; all if not given."""
    signal_step: int | None = None
    """After it, a process sends itself a signal."""
    signal_evaluation: int | None = None
    """In the evaluation of this step, a process sends itself a signal."""
    signal_name: str = "SIGTERM"
    """Which."""
    signal_rank: int = 0
    """Which process."""
    stalled_rank: int | None = None
    """The process that does nothing any more after the second step, without an end."""
    seconds_per_step: float = 0.0
    """A step takes so long more."""
    seconds_to_seal: float = 0.0
    """The main process works so long more on the checksums of a checkpoint."""
    seconds_to_rotate: float = 0.0
    """The main process works so long more when it removes old checkpoints."""

    no_result: ClassVar[tuple[str, ...]] = (
        "masked_step", "nonfinite_rows", "nonfinite_gradient", "oom_rows", "oom_rank", "signal_step",
        "signal_evaluation", "signal_name", "signal_rank", "stalled_rank", "seconds_per_step", "seconds_to_seal",
        "seconds_to_rotate",
    )  # fmt: skip


def wait_for_save() -> None:
    """Waits until the save and the upload in the background, if there are any, have ended."""
    for name in ("hftrain save", "hftrain upload"):
        for thread in threading.enumerate():
            if thread.name == name:
                thread.join()


def measured(rows: list[list[int]]) -> Examples:
    return Examples(rows, [len(row) for row in rows])


def random_examples(number: int, seed: int) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(3, 64, draw.integers(4, 16)).tolist() for _ in range(number)]


def delay(module: Any, name: str, seconds: float) -> None:
    """Lets a function of a module work so long more; the watch over the processes sees that it moves."""
    if not seconds:
        return
    at_once = getattr(module, name)

    def delayed(*arguments: Any, **options: Any) -> Any:
        for _ in range(round(seconds / 0.02)):
            time.sleep(0.01)
            time.sleep(0.01)
        return at_once(*arguments, **options)

    setattr(module, name, delayed)


def train(config: WorkerConfig, after_step: Callable[[int, torch.nn.Module], None] | None = None) -> tuple[Any, dict]:
    accelerator = start(config)
    config_of_model = TransformerConfig(
        vocab_size=64, hidden_size=config.width, intermediate_size=2 * config.width, num_encoder_layers=0,
        num_decoder_layers=1, num_attention_heads=2, dropout=config.dropout,
    )  # fmt: skip
    model = TransformerForCausalLM(config_of_model)
    model.register_buffer("constant", torch.ones(2))  # DDP sends buffers round
    rows = random_examples(config.examples, seed=int(os.environ.get("ROWS_SEED", "0")))

    def collate(batch: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        longest = max(map(len, batch))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        labels = torch.full_like(ids, -100) if config.masked_step else ids.masked_fill(mask == 0, -100)
        bad = torch.tensor([any(row == rows[i] for i in config.nonfinite_rows) for row in batch])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "bad": bad}

    def loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        bad = batch.pop("bad")
        with_memory = config.oom_rank not in (None, accelerator.process_index)
        if config.oom_rows is not None and len(bad) > config.oom_rows and model.training and not with_memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        summed = causal_language_model().summed(model, batch)
        if bad.any() and config.nonfinite_gradient:
            summed.register_hook(lambda gradient: gradient * float("nan"))
        return summed * float("nan") if bad.any() and not config.nonfinite_gradient else summed

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        if steps_done == config.signal_evaluation and accelerator.process_index == config.signal_rank:
            os.kill(os.getpid(), signal.Signals[config.signal_name])
        held_out = random_examples(HELD_OUT, seed=int(os.environ.get("HELD_OUT_SEED", "1")))
        task = {"collate": collate, "loss": Loss(loss, lambda batch: max(1, count_next_labels(batch)))}
        return {"loss": mean_loss(accelerator, model, measured(held_out), 4, **task)}

    delay(checkpoint.writing, "_seal", config.seconds_to_seal)
    delay(checkpoint, "rotate", config.seconds_to_rotate)
    steps_done = 0

    def fault(step: int, model: torch.nn.Module) -> None:
        nonlocal steps_done
        steps_done = step
        if config.seconds_per_step:
            print(f"did step {step}", flush=True)
            time.sleep(config.seconds_per_step)
        if step == 2 and accelerator.process_index == config.stalled_rank:
            time.sleep(1000)
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if step == config.signal_step and accelerator.process_index == config.signal_rank and first:
            if config.signal_name == "SIGKILL":
                wait_for_save()  # or the last checkpoint is perhaps there, perhaps not
            os.kill(os.getpid(), signal.Signals[config.signal_name])
        if after_step:
            after_step(step, model)

    return fit(
        accelerator, model, measured(rows), config, collate=collate, loss=Loss(loss, count_next_labels),
        evaluate=evaluate, after_step=fault,
        held_out={"validation": random_examples(HELD_OUT, int(os.environ.get("HELD_OUT_SEED", "1")))},
    )  # fmt: skip


def fork(
    config: WorkerConfig, processes: int = 1, odd_one: WorkerConfig | None = None, **environment_of_odd_one: str
) -> list[multiprocessing.Process]:
    """Starts `train` in processes of its own, which write `OUT.log-RANK`; the last one may be told something else."""
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        if rank == processes - 1:
            config, own = odd_one or config, own | environment_of_odd_one
        started.append(FORKING.Process(target=_forked, args=(config, shared | own if processes > 1 else {}, rank)))
        started[-1].start()
    return started


def _forked(config: WorkerConfig, environment: dict[str, str], rank: int) -> None:
    os.environ.update(environment)
    sys.path.insert(0, environment.get("FIRST_ON_PATH", ""))
    with open(f"{config.output_dir}.log-{rank}", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        main(config)
    except Exception:  # multiprocessing would print it past the interpreter's hook
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.exit(1)


def exit_codes(processes: Sequence[multiprocessing.Process], seconds: float = 100) -> list[int | None]:
    """Waits; None for a process that does not end, which is then killed."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def main(config: WorkerConfig) -> None:
    _, results = train(config)
    Path(f"{config.output_dir}.fit-returned").write_text(json.dumps(results))


TIMINGS = {"seconds", "step_seconds", "tokens_per_second", "train_runtime", "train_tokens_per_second", "window"}
TIMINGS |= {"tflops", "train_tflops"}


def without_timings(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in TIMINGS}


def trace(output_dir: Path) -> dict[str, Any]:
    """All that a run has left, but for how long things took; tensors as bytes."""
    last = checkpoint.checkpoints(output_dir)[-1]
    saved = checkpoint.read(last)
    lines = (output_dir / "metrics.jsonl").read_text().splitlines()
    tensors = {name: tensor.numpy().tobytes() for name, tensor in saved.tensors.items()}
    final = load_file(output_dir / "model.safetensors") if (output_dir / "model.safetensors").exists() else {}
    return {
        **{f"saved {name}": value for name, value in tensors.items()},
        **{f"final {name}": value.numpy().tobytes() for name, value in final.items()},
        "step": saved.step,
        "state": without_timings(saved.state),
        "metrics.jsonl": [without_timings(json.loads(line)) for line in lines],
    }


if __name__ == "__main__":
    main(parse(WorkerConfig))
