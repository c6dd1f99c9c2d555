"""Useful tokens per CPU second with all settings left out, beside transformers' Trainer with its own and at its best.

    python bench/padding.py                        # five rounds of everything
    python bench/padding.py --together             # in one process
    python bench/padding.py --quick                # a few steps, to see that it runs

The same model, data, optimizer and batch; one thread. Padding costs time and teaches nothing: tokens are counted
without it. Lengths are drawn as those of sentences are (log-normal); the content is random: no time depends on it.

    classify    a BERT of 2 layers, width 64; texts of 4 to 128 tokens (median 20), 16 a step
    translate   a Marian of 2 + 2 layers, width 64; pairs of 4 to 100 tokens (median 20), 40 a step, or as many tokens

Rounds are those of `bench/rounds.py`. The aims are those of the project; `bench/table.py` has those of other tasks.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import rounds  # first: it sets the threads
import torch
from rounds import Clock, Contestant
from torch import nn

VOCABULARY, CLASSES, RATE = 1000, 6, 1e-3
TEXTS, PAIRS = 16, 40  # a step


def sizes(count: int, draw: np.random.Generator, longest: int) -> np.ndarray:
    return np.clip(np.exp(draw.normal(3, 0.6, count)).astype(int), 4, longest)


def tokens(length: int, draw: np.random.Generator) -> list[int]:
    return draw.integers(1, VOCABULARY, length).tolist()


def watched(clock: Clock, collate: Callable[[list[Any]], Any], sides: tuple[str, ...]) -> Callable[[list[Any]], Any]:
    """`collate` that counts the tokens of the rows and those of the batch."""

    def collated(rows: list[Any]) -> Any:
        batch = collate(rows)
        clock.see(sum(len(row[side]) for row in rows for side in sides), sum(batch[side].numel() for side in sides))
        return batch

    return collated


# ---- texts with a class


def texts(steps: int) -> Any:
    from datasets import Dataset

    draw = np.random.default_rng(0)
    ids = [tokens(length, draw) for length in sizes(steps * TEXTS, draw, 128)]
    return Dataset.from_dict({"input_ids": ids, "labels": draw.integers(0, CLASSES, len(ids)).tolist()})


def classifier() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, num_labels=CLASSES, **size))


def collate_texts(rows: list[Any]) -> dict[str, torch.Tensor]:
    from hftrain import text

    ids = [row["input_ids"] for row in rows]
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": text.pad(ids, 0), "attention_mask": text.attention_mask(ids), "labels": labels}


def classify_trainer(steps: int, clock: Clock, order: str = "random") -> None:
    collate = watched(clock, collate_texts, ("input_ids",))
    settings = {"per_device_train_batch_size": TEXTS, "learning_rate": RATE, "train_sampling_strategy": order}
    rounds.trainer(clock, classifier(), texts(steps), collate, steps, **settings)


def classify_hftrain(steps: int, clock: Clock, **settings: Any) -> None:
    from hftrain import Examples, text
    from hftrain.labels.losses import classification

    rows, collate = texts(steps), watched(clock, collate_texts, ("input_ids",))
    examples = Examples(rows, text.list_lengths(rows, ["input_ids"]))
    loss = classification("single_label_classification")
    settings = {"global_batch_size": TEXTS, "learning_rate": RATE} | settings
    rounds.hftrain(clock, classifier(), examples, collate, loss, steps, **settings)


# ---- pairs


def pairs(steps: int) -> Any:
    from datasets import Dataset

    draw = np.random.default_rng(0)
    sources = sizes(steps * PAIRS, draw, 100)
    targets = np.clip((sources * draw.uniform(0.8, 1.25, len(sources))).astype(int), 4, 100)
    columns = {"input_ids": sources, "labels": targets}
    return Dataset.from_dict({name: [tokens(n, draw) for n in lengths] for name, lengths in columns.items()})


def translator() -> nn.Module:
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(0)
    size = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return MarianMTModel(
        MarianConfig(
            vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, forced_eos_token_id=None,
            **size, **heads,
        )
    )  # fmt: skip


def collate_pairs(rows: list[Any]) -> dict[str, torch.Tensor]:
    from hftrain import text

    return text.collate_pairs(rows, pad_token_id=0, decoder_start_token_id=0)


def translate_trainer(steps: int, clock: Clock, order: str = "random") -> None:
    collate = watched(clock, collate_pairs, ("input_ids", "labels"))
    settings = {"per_device_train_batch_size": PAIRS, "learning_rate": RATE, "train_sampling_strategy": order}
    rounds.trainer(clock, translator(), pairs(steps), collate, steps, **settings)


def translate_hftrain(steps: int, clock: Clock, **settings: Any) -> None:
    from hftrain import Examples, sequence_to_sequence, text

    rows, collate = pairs(steps), watched(clock, collate_pairs, ("input_ids", "labels"))
    lengths = text.list_lengths(rows, ["input_ids", "labels"])
    settings = {"global_batch_tokens": int(PAIRS * lengths.sum(axis=1).mean()), "learning_rate": RATE} | settings
    settings = {"micro_batch_tokens": 1024} | settings  # as the recipe has it
    rounds.hftrain(clock, translator(), Examples(rows, lengths), collate, sequence_to_sequence(), steps, **settings)


CONTESTANTS: dict[str, Contestant] = {
    "classify: Trainer": classify_trainer,
    "classify: Trainer, grouped": partial(classify_trainer, order="group_by_length"),
    "classify: hftrain": classify_hftrain,
    "classify: hftrain, grouped": partial(classify_hftrain, train_sampling_strategy="group_by_length"),
    "translate: Trainer": translate_trainer,
    "translate: Trainer, grouped": partial(translate_trainer, order="group_by_length"),
    "translate: hftrain": translate_hftrain,
    "translate: hftrain, grouped": partial(translate_hftrain, train_sampling_strategy="group_by_length"),
}
AIMS = [  # contestant, beside, aim
    ("classify: hftrain", "classify: Trainer", 2.4),
    ("classify: hftrain", "classify: Trainer, grouped", 1.0),
    ("translate: hftrain", "translate: Trainer", 2.8),
    ("translate: hftrain", "translate: Trainer, grouped", 1.1),
]


def main() -> None:
    args = rounds.parser_of(str(__doc__), CONTESTANTS).parse_args()
    numbers = rounds.compare(args, CONTESTANTS)
    if numbers is None:
        return
    for task in ("classify", "translate"):
        mine = {name: rows for name, rows in numbers.items() if name.startswith(task)}
        if mine:
            print(rounds.table(mine, "per_cpu_s", "useful tokens per CPU second", 0), "\n")
    print("| contestant | padding |\n|---|---|")
    for name, rows in numbers.items():
        print(f"| {name} | {np.median([row['padding'] for row in rows]):.1%} |")
    print("\n| aim | | measured | |\n|---|---|---|---|")
    for name, base, aim in AIMS:
        value = rounds.ratio(numbers, "per_cpu_s", name, base) if {name, base} <= numbers.keys() else None
        print(rounds.judge(f"{name} / {base}", value, aim))
    for name in ("classify: hftrain", "translate: hftrain"):
        padding = float(np.median([row["padding"] for row in numbers[name]])) if name in numbers else None
        print(rounds.judge(f"{name}, padding", padding, 0.05, at_most=True))


if __name__ == "__main__":
    main()
