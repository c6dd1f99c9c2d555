"""What a save costs: seconds for which training stops, in the background beside one that it waits for.

    python bench/saves.py [--quick] [--sizes 20M 135M] [--rounds 3] [--folder DIR]
    python bench/saves.py --count           # bytes and seconds of each rank at 7B and 70B, counted, nothing is written

Rounds alternate (A B A B) in one process, on one thread. The first round fills memory that later ones use again, and
does not count. CPU seconds of the main thread do not depend on what else the machine does.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")

import torch
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM

from hftrain import distributed
from hftrain.train import checkpoint
from hftrain.train.exporting import exporter

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 500},
    "20M": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "vocab_size": 8000},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152},
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32000},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "vocab_size": 128256},
}
HEADS = {"tiny": (2, 2), "20M": (6, 6), "135M": (9, 3), "7B": (32, 32), "70B": (64, 8)}
COPIED, HASHED = 20e9, 1.3e9  # bytes a second, assumed: from a GPU into pinned memory; sha256 of one core


def model_of(size: str) -> LlamaForCausalLM:
    heads, groups = HEADS[size]
    tied = size in ("tiny", "20M", "135M")
    config = LlamaConfig(
        **SHAPES[size], num_attention_heads=heads, num_key_value_heads=groups, tie_word_embeddings=tied
    )
    return LlamaForCausalLM(config)


def measure(size: str, rounds: int, folder: Path) -> None:
    """Prints a row of the table: medians, and the range of the CPU seconds of the main thread."""
    torch.set_num_threads(1)
    accelerator, plain = Accelerator(cpu=True), model_of(size)
    optimizer = torch.optim.AdamW(plain.parameters())
    for parameter in plain.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    optimizer.zero_grad()
    model, optimizer = accelerator.prepare(plain, optimizer)
    background, spent = checkpoint.Background(), {"background": [], "foreground": []}
    number = sum(parameter.numel() for parameter in plain.parameters())
    for step in range(rounds + 1):
        for way, rows in spent.items():
            began, cpu = time.perf_counter(), time.thread_time()
            pieces = list(distributed.pieces(accelerator, model, optimizer))
            copies = background.copy(pieces) if way == "background" else pieces
            what: dict[str, Any] = {"pieces": copies, "state": {"samples_seen": 1}, "contract": {}}
            what["export"] = exporter(accelerator, model, None, copies, averaged=False)
            if way == "background":
                background.start(checkpoint.write, accelerator, folder, step, lasting=True, **what)
            else:
                checkpoint.write(accelerator, folder, step, **what)
            stopped = time.thread_time() - cpu, time.perf_counter() - began
            background.finish()
            shutil.rmtree(folder)
            if step:
                rows.append((*stopped, time.perf_counter() - began))
    for way, rows in spent.items():
        cpu, wall, whole = (statistics.median(column) for column in zip(*rows, strict=True))
        low, high = min(row[0] for row in rows), max(row[0] for row in rows)
        print(f"| {number / 1e6:.0f}M | {way} | {cpu:.3f} ({low:.3f} to {high:.3f}) | {wall:.3f} | {whole:.2f} |")


def count() -> None:
    """Prints a row for each size and number of ranks of ZeRO-3, whose shards of each parameter are of one length."""
    titles = (
        "parameters",
        "ranks",
        "checkpoint, GB",
        "a rank writes, GB",
        "stop, s",
        "hash, a rank, s",
        "before: rank 0, s",
    )
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    for size in ("7B", "70B"):
        with torch.device("meta"):
            parameters = list(model_of(size).parameters())
        number = sum(parameter.numel() for parameter in parameters)
        for ranks in (8, 64):
            mine = 12 * sum(-(-parameter.numel() // ranks) for parameter in parameters)
            seconds = f"{mine / COPIED:.1f} | {mine / HASHED:.0f} | {14 * number / HASHED:.0f}"
            print(f"| {number / 1e9:.1f}B | {ranks} | {12 * number / 1e9:.0f} | {mine / 1e9:.1f} | {seconds} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=["tiny", "20M", "135M"], default=["20M", "135M"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one if not given")
    parser.add_argument("--count", action="store_true", help="count bytes instead of measuring")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one round")
    args = parser.parse_args()
    if args.count:
        count()
        return
    print("| parameters | a save in the | main thread, CPU s | main thread, s | until it is complete, s |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder, open(os.devnull, "w") as null:
        for size in ["tiny"] if args.quick else args.sizes:
            with contextlib.redirect_stderr(null):
                measure(size, 1 if args.quick else args.rounds, Path(folder) / size)


if __name__ == "__main__":
    main()
