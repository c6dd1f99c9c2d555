"""What a step costs beside the model: the same tiny model in a bare loop of PyTorch and in others' loops.

    python bench/overhead.py                       # bare, Accelerate, Trainer, hftrain; five rounds
    python bench/overhead.py --quick               # a few steps, to see that it runs

A new Llama of 2 layers (width 64, 1,000 tokens) learns from random rows of 8 to 40 tokens, 8 of them a step, padded to
the longest; AdamW, clipping at 1, one thread. Rounds alternate (A B C D A B C D), each loop in a process of its own. A
step is measured in CPU seconds from step 20 on, so that what comes before the first step does not count.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import numpy as np
import torch
from torch import nn

WARM, BATCH, VOCABULARY, RATE = 20, 8, 1000, 1e-3
Tick = Callable[[], None]  # called after each step


def make_model() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=None, **size))


def make_rows(count: int) -> Any:
    from datasets import Dataset

    draw = np.random.default_rng(0)
    rows = [draw.integers(1, VOCABULARY, draw.integers(8, 41)).tolist() for _ in range(count)]
    return Dataset.from_dict({"input_ids": rows})


def collate(rows: list[Any]) -> dict[str, torch.Tensor]:
    """As one would write it by hand."""
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    pad = nn.utils.rnn.pad_sequence
    mask = pad([torch.ones_like(tokens) for tokens in ids], batch_first=True)
    return {
        "input_ids": pad(ids, batch_first=True),
        "labels": pad(ids, batch_first=True, padding_value=-100),
        "attention_mask": mask,
    }


def batches(rows: Any, steps: int) -> Iterator[dict[str, torch.Tensor]]:
    order = torch.randperm(len(rows)).tolist()
    for step in range(steps):
        yield collate([rows[i] for i in order[step * BATCH : (step + 1) * BATCH]])


def bare(steps: int, tick: Tick) -> None:
    model, rows = make_model(), make_rows(steps * BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for batch in batches(rows, steps):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        tick()


def accelerate(steps: int, tick: Tick) -> None:
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    accelerator, model, rows = Accelerator(cpu=True), make_model(), make_rows(steps * BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    loader = DataLoader(rows, batch_size=BATCH, shuffle=True, collate_fn=collate)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for batch in loader:
        loss = model(**batch, use_cache=False).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        tick()


def trainer(steps: int, tick: Tick) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Ticking(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            tick()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, max_steps=steps, learning_rate=RATE, save_strategy="no",
            report_to=[], disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        rows = make_rows(steps * BATCH)
        Trainer(make_model(), arguments, collate, train_dataset=rows, callbacks=[Ticking()]).train()


def hftrain(steps: int, tick: Tick) -> None:
    from hftrain import Examples, TrainConfig, fit, start, text
    from hftrain.losses import causal_language_model
    from hftrain.text.causal import collate_causal

    rows = make_rows(steps * BATCH)
    examples = Examples(rows, text.list_lengths(rows, ["input_ids"]))
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            output_dir=folder + "/out", global_batch_size=BATCH, max_steps=steps, learning_rate=RATE, save_steps=0,
        )  # fmt: skip
        fit(
            start(config), make_model(), examples, config, loss=causal_language_model(),
            collate=lambda rows: collate_causal(rows, pad_token_id=0), after_step=lambda step, model: tick(),
        )  # fmt: skip


LOOPS = {"bare": bare, "accelerate": accelerate, "trainer": trainer, "hftrain": hftrain}


def measure(name: str, steps: int) -> dict[str, float]:
    """Milliseconds of a step, of CPU and of the clock on the wall: medians of parts of the run."""
    torch.set_num_threads(1)
    times: list[tuple[float, float]] = []
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        LOOPS[name](steps, lambda: times.append((time.process_time(), time.perf_counter())))
    assert len(times) == steps
    cpu, wall = 1000 * np.diff(np.array(times[WARM:]), axis=0).mean(axis=0)
    return {"cpu_ms": float(cpu), "wall_ms": float(wall)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file for the numbers of each round")
    parser.add_argument("--quick", action="store_true", help="one round of 25 steps")
    parser.add_argument("--only", choices=LOOPS, help="measure in this process")
    args = parser.parse_args()
    steps, rounds = (25, 1) if args.quick else (args.steps, args.rounds)
    if args.only:
        print(json.dumps(measure(args.only, steps)))
        return
    numbers: dict[str, list[dict[str, float]]] = {name: [] for name in args.loops}
    for _ in range(rounds):
        for name in args.loops:
            command = [sys.executable, __file__, "--only", name, "--steps", str(steps)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            numbers[name].append(json.loads(done.stdout.splitlines()[-1]))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(numbers, file, indent=1)
    print("| loop | CPU ms a step: median (range) | wall ms | beside the first row, median of the rounds |")
    print("|---|---|---|---|")
    first = [row["cpu_ms"] for row in numbers[args.loops[0]]]
    for name, measured in numbers.items():
        cpu, wall = [row["cpu_ms"] for row in measured], [row["wall_ms"] for row in measured]
        ratio = statistics.median(mine / other for mine, other in zip(cpu, first, strict=True))
        spread = f"{min(cpu):.2f} to {max(cpu):.2f}"
        print(f"| {name} | {statistics.median(cpu):.2f} ({spread}) | {statistics.median(wall):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
