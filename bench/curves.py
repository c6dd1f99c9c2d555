"""How the cost of training grows: with the model, the vocabulary, the length of rows, and the number of examples.

    python bench/curves.py                         # all four tables
    python bench/curves.py --curves examples
    python bench/curves.py --quick                 # the smallest points, to see that it runs

A new Llama of 4 layers computes the loss and the gradients of 2,048 tokens; CPU seconds of one thread, the best of two.
One thing varies, the rest is width 128, a vocabulary of 1,000 and rows of 128 tokens. The number of examples costs
before the first step only: the plan of an epoch, one step of it, and packs.
"""

import argparse
import os
import resource
import time
from collections.abc import Iterator
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")

import numpy as np
import torch

from hftrain import causal_language_model
from hftrain.data.packing import pack
from hftrain.data.plan import Plan
from hftrain.text.causal import collate_causal
from hftrain.train.flops import count_parameters
from hftrain.train.trials import chunk_loss

TOKENS = 2048
POINTS: dict[str, tuple[int, ...]] = {
    "model": (64, 128, 256, 512),
    "vocabulary": (1_000, 8_000, 32_000, 128_000),
    "length": (32, 128, 512, 2048),
    "examples": (1_000, 10_000, 100_000, 1_000_000, 10_000_000),
}


def make_model(width: int = 128, vocabulary: int = 1000) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 4}
    size |= {"num_attention_heads": max(1, width // 64), "max_position_embeddings": TOKENS}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, bos_token_id=None, eos_token_id=None, **size))


def seconds(model: Any, length: int = 128, chunked: bool = False) -> float:
    """CPU seconds of forward and backward of TOKENS tokens, the best of two."""
    draw, times = np.random.default_rng(0), []
    rows = [{"input_ids": draw.integers(1, model.config.vocab_size, length)} for _ in range(TOKENS // length)]
    batch, loss = collate_causal(rows, pad_token_id=0), causal_language_model(chunked=chunked)
    for _ in range(2):
        model.zero_grad()
        began = time.process_time()
        loss.summed(model, batch).backward()
        times.append(time.process_time() - began)
    return min(times)


def by_model(points: tuple[int, ...]) -> Iterator[tuple[str, ...]]:
    yield "width", "parameters", "s", "tokens/s"
    for width in points:
        model = make_model(width=width)
        spent = seconds(model)
        yield f"{width}", f"{count_parameters(model) / 1e6:.1f}M", f"{spent:.2f}", f"{TOKENS / spent:,.0f}"


def by_vocabulary(points: tuple[int, ...]) -> Iterator[tuple[str, ...]]:
    yield "vocabulary", "all logits, s", "chunked_loss, s"
    for size in points:
        model = make_model(vocabulary=size)
        full = seconds(model)
        yield f"{size:,}", f"{full:.2f}", f"{seconds(model, chunked=chunk_loss(model)):.2f}"


def by_length(points: tuple[int, ...]) -> Iterator[tuple[str, ...]]:
    yield "tokens of a row", "s", "tokens/s"
    model = make_model()
    for length in points:
        spent = seconds(model, length)
        yield f"{length:,}", f"{spent:.2f}", f"{TOKENS / spent:,.0f}"


def by_examples(points: tuple[int, ...]) -> Iterator[tuple[str, ...]]:
    yield "examples", "plan, s", "first step of the epoch, s", "the next, ms", "packs, s", "peak memory, MB"
    for count in points:
        lengths = np.clip(np.exp(np.random.default_rng(0).normal(3, 0.6, count)).astype(int), 4, 128)
        clocks = [time.process_time()]
        plan = Plan(lengths[:, None], seed=0, global_batch_size=32, grouped=True)
        clocks.append(time.process_time())
        plan.examples(0)
        clocks.append(time.process_time())
        plan.examples(1)
        clocks.append(time.process_time())
        pack(lengths, 1024)
        clocks.append(time.process_time())
        made, first, following, packed = np.diff(clocks)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        times = f"{made:.3f}", f"{first:.3f}", f"{1000 * following:.3f}", f"{packed:.3f}"
        yield (f"{count:,}", *times, f"{memory:,.0f}")


CURVES = {"model": by_model, "vocabulary": by_vocabulary, "length": by_length, "examples": by_examples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--quick", action="store_true", help="the smallest points of each curve")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.curves:
        rows = CURVES[name](POINTS[name][:1] if args.quick else POINTS[name])
        heading = next(rows)
        print(f"\n| {' | '.join(heading)} |\n{'|---' * len(heading)}|")
        for row in rows:
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
