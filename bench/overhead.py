"""What a step costs beside the model: the same tiny model in a bare loop of PyTorch and in others' loops.

    python bench/overhead.py                       # bare, Accelerate, Trainer, hftrain; five rounds
    python bench/overhead.py --together            # in one process
    python bench/overhead.py --quick               # a few steps, to see that it runs

A new Llama of 2 layers (width 64, 1,000 tokens) learns from random rows of 8 to 40 tokens, 8 of them a step, padded to
the longest; AdamW, clipping at 1, one thread. A step is measured in CPU time from step 10 on, so that what comes before
the first step does not count. Rounds are those of `bench/rounds.py`.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import rounds  # first: it sets the threads
import torch
from rounds import Clock, Contestant
from torch import nn

BATCH, VOCABULARY, RATE = 8, 1000, 1e-3


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


def bare(steps: int, clock: Clock) -> None:
    model, rows = make_model(), make_rows(steps * BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for batch in batches(rows, steps):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        clock.tick()


def accelerate(steps: int, clock: Clock) -> None:
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
        clock.tick()


def trainer(steps: int, clock: Clock) -> None:
    rows = make_rows(steps * BATCH)
    rounds.trainer(clock, make_model(), rows, collate, steps, per_device_train_batch_size=BATCH, learning_rate=RATE)


def hftrain(steps: int, clock: Clock) -> None:
    from hftrain import Examples, causal_language_model, text
    from hftrain.text.causal import collate_causal

    rows = make_rows(steps * BATCH)
    examples = Examples(rows, text.list_lengths(rows, ["input_ids"]))
    padded = partial(collate_causal, pad_token_id=0)
    settings = {"global_batch_size": BATCH, "learning_rate": RATE, "train_sampling_strategy": "random"}
    rounds.hftrain(clock, make_model(), examples, padded, causal_language_model(), steps, **settings)


LOOPS: dict[str, Contestant] = {"bare": bare, "accelerate": accelerate, "trainer": trainer, "hftrain": hftrain}


def main() -> None:
    args = rounds.parser_of(str(__doc__), LOOPS).parse_args()
    numbers = rounds.compare(args, LOOPS)
    if numbers is None:
        return
    print(rounds.table(numbers, "cpu_ms", "CPU ms a step", 2))
    if {"bare", "hftrain"} <= numbers.keys():
        print("\n| aim | | measured | |\n|---|---|---|---|")
        value = rounds.ratio(numbers, "cpu_ms", "hftrain", "bare")
        print(rounds.judge("a step / that of a bare loop", value, 1.15, at_most=True))


if __name__ == "__main__":
    main()
