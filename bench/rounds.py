"""Runs the contestants of a benchmark in rounds, and writes what came out as JSON and as a Markdown table.

Rounds alternate (A B C A B C), each contestant in a process of its own, or with `--together` all in one, which saves
the imports: what else the machine does meets all alike. Ratios are of one round, and the table has their median.
"""

import argparse
import contextlib
import io
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import numpy as np
import psutil
import torch
from accelerate.state import AcceleratorState
from torch import nn

WARM = 10  # steps that do not count: caches fill, the first allocations are made

Numbers = dict[str, float]


class Clock:
    """What each step took, and the tokens that it saw; `watch`: the seconds of its data pipeline, CPU or wall."""

    def __init__(self, seed: int, watch: Callable[[], float] = time.process_time) -> None:
        self.seed, self.watch = seed, watch  # of the training: another seed in each round
        self.useful = self.padded = 0
        self.steps: list[tuple[float, ...]] = []  # CPU and wall seconds, useful and padded tokens, `data` so far
        self.loss = math.nan  # on held-out rows, after the last step
        self.extra = 0.0  # CPU seconds before training, for each step
        self.data = 0.0  # seconds of hftrain's data pipeline
        self.before_mb = math.nan  # memory of the process when training begins
        self.peak_mb = math.nan  # of the process, until the last step: scoring the held-out rows may take more

    def begin(self) -> None:
        """The model and the data are made, and training begins."""
        self.before_mb = psutil.Process().memory_info().rss / 2**20

    def timed(self, steps: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """`steps` of hftrain's data pipeline, whose time is counted."""

        def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            iterator, done = steps(*args, **kwargs), object()
            while True:
                began = self.watch()
                step = next(iterator, done)
                self.data += self.watch() - began
                if step is done:
                    return
                yield step

        return counted

    def see(self, useful: int, padded: int) -> None:
        """A batch was made."""
        self.useful += useful
        self.padded += padded

    def tick(self) -> None:
        """A step was taken."""
        self.steps.append((time.process_time(), time.perf_counter(), self.useful, self.padded, self.data))
        self.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def warm(self) -> tuple[int, np.ndarray]:
        """The steps after the first ones, and what they took, as in `steps`."""
        first = min(WARM, len(self.steps) // 2)
        return len(self.steps) - 1 - first, np.subtract(self.steps[-1], self.steps[first])

    def numbers(self) -> Numbers:
        """Milliseconds of a step, useful tokens per CPU second and share of padding, without the first steps."""
        count, (cpu, wall, useful, padded, _) = self.warm()
        cpu += count * self.extra
        spent = {"cpu_ms": 1000 * cpu / count, "wall_ms": 1000 * wall / count}
        spent |= {"peak_mb": self.peak_mb, "training_mb": self.peak_mb - self.before_mb}
        shares = {"per_cpu_s": useful / cpu, "padding": 1 - useful / padded if padded else 0.0}
        shares["data"] = self.data / len(self.steps) / (cpu / count)
        return spent | shares | {"loss": self.loss}


Contestant = Callable[[int, Clock], None]  # trains for some steps


def run(contestant: Contestant, steps: int, seed: int) -> Numbers:
    """Trains, silently and on one thread."""
    torch.set_num_threads(1)
    clock = Clock(seed)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        contestant(steps, clock)
    AcceleratorState._reset_state(reset_partial_state=True)
    if len(clock.steps) != steps:
        raise RuntimeError(f"{len(clock.steps)} steps were taken, not {steps}")
    return clock.numbers()


def parser_of(description: str, names: Mapping[str, object]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", nargs="+", choices=names, default=list(names))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the numbers of each round")
    parser.add_argument("--together", action="store_true", help="all rounds in one process")
    parser.add_argument("--quick", action="store_true", help="one round of 6 steps, together, to see that it runs")
    parser.add_argument("--only", choices=names, help="measure this one in this process, and print JSON")
    parser.add_argument("--seed", type=int, default=0, help="of --only; rounds count it up")
    return parser


def compare(args: argparse.Namespace, contestants: Mapping[str, Contestant]) -> dict[str, list[Numbers]] | None:
    """The numbers of each round by contestant; None in the process of one contestant, which prints its own."""
    if args.only:
        print(json.dumps(run(contestants[args.only], args.steps, args.seed)))
        return None
    steps, count = (6, 1) if args.quick else (args.steps, args.rounds)
    numbers: dict[str, list[Numbers]] = {name: [] for name in args.contestants}
    for seed in range(count):
        for name in args.contestants:
            if args.together or args.quick:
                numbers[name].append(run(contestants[name], steps, seed))
            else:
                command = [sys.executable, sys.argv[0], "--only", name, "--steps", str(steps), "--seed", str(seed)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                numbers[name].append(json.loads(done.stdout.splitlines()[-1]))
            if args.json:
                args.json.write_text(json.dumps(numbers, indent=1))
    return numbers


def ratio(numbers: Mapping[str, list[Numbers]], key: str, name: str, base: str) -> float:
    """Median over the rounds of what `name` has of `key` / what `base` has."""
    pairs = zip(numbers[name], numbers[base], strict=True)
    return statistics.median(mine[key] / other[key] for mine, other in pairs)


def table(numbers: Mapping[str, list[Numbers]], key: str, unit: str, digits: int) -> str:
    """Median and range of `key`, and the ratio to the first contestant."""
    base = next(iter(numbers))
    lines = [f"| contestant | {unit}, median (range) | / {base} | held-out loss, median (range) |", "|---|---|---|---|"]
    for name, rows in numbers.items():
        values = [row[key] for row in rows]
        shown = f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"
        losses = [row["loss"] for row in rows]
        final = f"{statistics.median(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})"
        final = "" if math.isnan(losses[0]) else final
        lines.append(f"| {name} | {shown} | {ratio(numbers, key, name, base):.2f} | {final} |")
    return "\n".join(lines)


def judge(name: str, value: float | None, aim: float, *, at_most: bool = False) -> str:
    """A row of the table of aims."""
    sign = "<=" if at_most else ">="
    if value is None:
        return f"| {name} | {sign} {aim:g} | not measured | |"
    reached = value <= aim if at_most else value >= aim
    return f"| {name} | {sign} {aim:g} | {value:.3g} | {'reached' if reached else 'not reached'} |"


def held_out_loss(model: nn.Module, score: Callable[[nn.Module], Any] | None) -> float:
    """What `score` gives for the model without dropout."""
    if score is None:
        return math.nan
    model.eval()
    with torch.no_grad():
        return float(score(model))


def ticking(clock: Clock) -> Any:
    """A callback of `Trainer` that calls `clock.tick` after each step."""
    from transformers import TrainerCallback

    class Ticking(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    return Ticking()


def trainer(
    clock: Clock,
    model: nn.Module,
    rows: Any,
    collate: Callable[[list[Any]], Any],
    steps: int,
    score: Callable[[nn.Module], Any] | None = None,
    **settings: Any,
) -> None:
    """The training of transformers' `Trainer`."""
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
            remove_unused_columns=False, seed=clock.seed, **settings,
        )  # fmt: skip
        mine = Trainer(model, arguments, collate, train_dataset=rows, callbacks=[ticking(clock)])
        clock.begin()
        mine.train()
    clock.loss = held_out_loss(model, score)


def hftrain(
    clock: Clock,
    model: nn.Module,
    examples: Any,
    collate: Callable[[list[Any]], Any],
    loss: Any,
    steps: int,
    ended: Callable[[int, Any], None] = lambda step, model: None,
    score: Callable[[nn.Module], Any] | None = None,
    **settings: Any,
) -> None:
    """The training of `hftrain.fit`, with the optimizer and the schedule that Trainer has by default; `ended` is called
    after each step."""
    from hftrain import TrainConfig, fit, start
    from hftrain.train import loop

    settings = {"lr_scheduler_type": "linear", "warmup_steps": 0, "weight_decay": 0.0} | settings

    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(output_dir=folder + "/out", max_steps=steps, save_steps=0, seed=clock.seed, **settings)

        def after_step(step: int, model: Any) -> None:
            clock.tick()
            ended(step, model)

        clock.begin()
        with patch.object(loop, "steps", clock.timed(loop.steps)):
            fit(start(config), model, examples, config, loss=loss, collate=collate, after_step=after_step)
    clock.loss = held_out_loss(model, score)
