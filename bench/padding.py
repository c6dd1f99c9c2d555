"""Useful tokens per CPU second with all settings left out, beside transformers' Trainer with its own and at its best.

    python bench/padding.py                        # five rounds of everything
    python bench/padding.py --together             # in one process
    python bench/padding.py --quick                # a few steps, to see that it runs

The same model, data, optimizer and batch; one thread. Padding costs time and teaches nothing: tokens are counted
without it. Lengths are drawn as those of sentences are (log-normal); of the content each token depends on the one
before it. A batch of hftrain has padding; its layers do not compute it. The held-out loss is that of rows which nothing
trains on; each round has another seed of the training.

    classify    a BERT of 3 layers, width 256; texts of 4 to 128 tokens (median 20), 16 a step; tag, answer and mask
                are the same encoder with a tag for each token, an answer, or masked tokens to predict
    translate   a Marian of 2 + 2 layers, width 192; pairs of 4 to 100 tokens (median 20), 40 a step, or as many tokens

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
    """Each token can be followed by four others, so there is something to learn."""
    token, row = int(draw.integers(VOCABULARY)), []
    for choice in draw.integers(4, size=length).tolist():
        token = (7 * token + choice) % (VOCABULARY - 1)
        row.append(token + 1)
    return row


def watched(clock: Clock, collate: Callable[[list[Any]], Any], sides: tuple[str, ...]) -> Callable[[list[Any]], Any]:
    """`collate` that counts the tokens of the rows and those of the batch."""

    def collated(rows: list[Any]) -> Any:
        batch = collate(rows)
        clock.see(sum(len(row[side]) for row in rows for side in sides), sum(batch[side].numel() for side in sides))
        return batch

    return collated


# ---- texts with a class, a tag for each token, an answer, or masked tokens: the encoder is the same


def texts(steps: int, seed: int = 0) -> Any:
    from datasets import Dataset

    draw = np.random.default_rng(seed)
    return Dataset.from_dict({"input_ids": [tokens(length, draw) for length in sizes(steps * TEXTS, draw, 128)]})


def encoder(head: str) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    size = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, num_labels=2 if head == "QuestionAnswering" else CLASSES, **size
    )
    model: nn.Module = getattr(transformers, f"BertFor{head}")(config)
    return model


def collate_texts(rows: list[Any], head: str) -> dict[str, torch.Tensor]:
    """The labels follow from the tokens."""
    from hftrain import text

    ids = [np.asarray(row["input_ids"]) for row in rows]
    batch = {"input_ids": text.pad(ids, 0), "attention_mask": text.attention_mask(ids)}
    if head == "SequenceClassification":
        return batch | {"labels": torch.tensor([row[0] % CLASSES for row in ids])}
    if head == "TokenClassification":
        return batch | {"labels": text.pad([row % CLASSES for row in ids], -100)}
    if head == "QuestionAnswering":
        places = [torch.tensor([int(find(row)) for row in ids]) for find in (np.argmin, np.argmax)]
        return batch | dict(zip(("start_positions", "end_positions"), places, strict=True))
    hidden = [row % 7 == 0 for row in ids]
    masked = [np.where(mask, 1, row) for row, mask in zip(ids, hidden, strict=True)]
    labels = [np.where(mask, row, -100) for row, mask in zip(ids, hidden, strict=True)]
    return batch | {"input_ids": text.pad(masked, 0), "labels": text.pad(labels, -100)}


def collate_answers(rows: list[Any]) -> dict[str, torch.Tensor]:
    """As hftrain's loss of an answer has it."""
    batch = collate_texts(rows, "QuestionAnswering")
    labels = torch.stack([batch.pop("start_positions"), batch.pop("end_positions")], dim=1)
    return batch | {"context": batch["attention_mask"], "null": labels[:, 0] * 0, "labels": labels}


def loss_of(head: str) -> Any:
    from hftrain import losses
    from hftrain.labels.losses import classification
    from hftrain.tasks.answering.losses import loss

    if head == "SequenceClassification":
        return classification("single_label_classification")
    return loss() if head == "QuestionAnswering" else losses.sequence_to_sequence()


def collate_of(head: str) -> Callable[[list[Any]], dict[str, torch.Tensor]]:
    return collate_answers if head == "QuestionAnswering" else partial(collate_texts, head=head)


def score(loss: Any, rows: Any, collate: Callable[[list[Any]], Any], model: nn.Module) -> float:
    """The mean loss of these rows."""
    batch = collate([rows[index] for index in range(len(rows))])
    return float(loss.summed(model, batch)) / float(loss.count(batch))


def read_trainer(steps: int, clock: Clock, head: str, order: str = "random") -> None:
    collate = partial(collate_texts, head=head)
    settings = {"per_device_train_batch_size": TEXTS, "learning_rate": RATE, "train_sampling_strategy": order}
    settings |= {"score": partial(score, loss_of(head), texts(4, seed=1), collate_of(head))}
    rounds.trainer(clock, encoder(head), texts(steps), watched(clock, collate, ("input_ids",)), steps, **settings)


def read_hftrain(steps: int, clock: Clock, head: str, **settings: Any) -> None:
    from hftrain import Examples, text

    rows, collate, loss = texts(steps), collate_of(head), loss_of(head)
    examples = Examples(rows, text.list_lengths(rows, ["input_ids"]))
    settings = {"global_batch_size": TEXTS, "learning_rate": RATE} | settings
    settings |= {"score": partial(score, loss, texts(4, seed=1), collate)}
    watching = watched(clock, collate, ("input_ids",))
    rounds.hftrain(clock, encoder(head), examples, watching, loss, steps, **settings)


# ---- pairs


def pairs(steps: int, seed: int = 0) -> Any:
    from datasets import Dataset

    draw = np.random.default_rng(seed)
    sources = sizes(steps * PAIRS, draw, 100)
    targets = np.clip((sources * draw.uniform(0.8, 1.25, len(sources))).astype(int), 4, 100)
    columns = {"input_ids": sources, "labels": targets}
    return Dataset.from_dict({name: [tokens(n, draw) for n in lengths] for name, lengths in columns.items()})


def translator() -> nn.Module:
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(0)
    size = {"d_model": 192, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 768, "decoder_ffn_dim": 768}
    heads = {"encoder_attention_heads": 3, "decoder_attention_heads": 3}
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
    from hftrain import sequence_to_sequence

    collate = watched(clock, collate_pairs, ("input_ids", "labels"))
    settings = {"per_device_train_batch_size": PAIRS, "learning_rate": RATE, "train_sampling_strategy": order}
    settings |= {"score": partial(score, sequence_to_sequence(), pairs(1, seed=1), collate_pairs)}
    rounds.trainer(clock, translator(), pairs(steps), collate, steps, **settings)


def translate_hftrain(steps: int, clock: Clock, **settings: Any) -> None:
    from hftrain import Examples, sequence_to_sequence, text

    rows, collate = pairs(steps), watched(clock, collate_pairs, ("input_ids", "labels"))
    lengths = text.list_lengths(rows, ["input_ids", "labels"])
    settings = {"global_batch_tokens": int(PAIRS * lengths.sum(axis=1).mean()), "learning_rate": RATE} | settings
    settings = {"micro_batch_tokens": 1024} | settings  # as the recipe has it
    settings |= {"score": partial(score, sequence_to_sequence(), pairs(1, seed=1), collate_pairs)}
    rounds.hftrain(clock, translator(), Examples(rows, lengths), collate, sequence_to_sequence(), steps, **settings)


HEADS = {
    "classify": "SequenceClassification",
    "tag": "TokenClassification",
    "answer": "QuestionAnswering",
    "mask": "MaskedLM",
}
GROUPED = {"train_sampling_strategy": "group_by_length"}
CONTESTANTS: dict[str, Contestant] = {}
for task, head in HEADS.items():
    CONTESTANTS[f"{task}: Trainer"] = partial(read_trainer, head=head)
    CONTESTANTS[f"{task}: Trainer, grouped"] = partial(read_trainer, head=head, order="group_by_length")
    CONTESTANTS[f"{task}: hftrain"] = partial(read_hftrain, head=head)
CONTESTANTS |= {
    "classify: hftrain, grouped": partial(read_hftrain, head=HEADS["classify"], **GROUPED),
    "translate: Trainer": translate_trainer,
    "translate: Trainer, grouped": partial(translate_trainer, order="group_by_length"),
    "translate: hftrain": translate_hftrain,
    "translate: hftrain, grouped": partial(translate_hftrain, **GROUPED),
}
AIMS = {"classify": (2.4, 1.0), "tag": (2.4, 1.0), "answer": (2.4, 1.0), "mask": (2.2, None), "translate": (2.8, 1.1)}


def main() -> None:
    args = rounds.parser_of(str(__doc__), CONTESTANTS).parse_args()
    numbers = rounds.compare(args, CONTESTANTS)
    if numbers is None:
        return
    for task in AIMS:
        mine = {name: rows for name, rows in numbers.items() if name.startswith(f"{task}:")}
        if mine:
            print(rounds.table(mine, "per_cpu_s", "useful tokens per CPU second", 0), "\n")
    print("| contestant | padding of its batches |\n|---|---|")
    for name, rows in numbers.items():
        print(f"| {name} | {np.median([row['padding'] for row in rows]):.1%} |")
    print("\n| aim | | measured | |\n|---|---|---|---|")
    for task, aims in AIMS.items():
        for other, aim in zip(("Trainer", "Trainer, grouped"), aims, strict=True):
            name, base = f"{task}: hftrain", f"{task}: {other}"
            value = rounds.ratio(numbers, "per_cpu_s", name, base) if {name, base} <= numbers.keys() else None
            if aim is not None:
                print(rounds.judge(f"{name} / {base}", value, aim))
        if f"{task}: hftrain" in numbers:
            share = float(np.median([row["data"] for row in numbers[f"{task}: hftrain"]]))
            print(rounds.judge(f"{task}: the data pipeline / a step", share, 0.02, at_most=True))


if __name__ == "__main__":
    main()
