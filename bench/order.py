"""Does it hurt to put examples of similar length into a step? Held-out score and loss after the same training.

    python bench/order.py --data ../shared/data                  # three seeds of each task
    python bench/order.py --data ../shared/data --tasks tag --seeds 1
    python bench/order.py --data ../shared/data --quick         # few rows and one seed, to see that it runs

Words are tokens; small new models of one layer, width 64, `fit` with its defaults but for what stands below:

    classify    TREC: 1,200 questions, 6 classes, 16 a step, 4 epochs; accuracy on 500
    tag         WNUT17: 800 sentences, 13 tags, 16 a step, 3 epochs; accuracy of the words on 400 sentences
    translate   Tatoeba: 3,000 pairs of at most 12 words, 512 tokens a step, 4 epochs; accuracy of the next token on 300
    mlm         Tatoeba: 6,000 English sentences, 32 a step, 4 epochs, one word in six hidden, always the same ones;
                accuracy of the hidden words on 600 sentences
"""

import argparse
import contextlib
import gzip
import io
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import numpy as np
import torch
import transformers

from hftrain import Examples, Loss, TrainConfig, fit, sequence_to_sequence, start, text
from hftrain.losses import IGNORE, count_labels

UNKNOWN, BEGIN, END, MASK, FIRST = 1, 2, 3, 4, 5  # tokens; 0 is padding


def numbers_of(words: Iterable[str], size: int) -> dict[str, int]:
    common = Counter(words).most_common(size - FIRST)
    return {word: number for number, (word, _) in enumerate(common, FIRST)}


def questions(data: Path) -> tuple[list[Any], list[Any], int]:
    splits = []
    for name in ("TREC.train.all", "TREC.test.all"):
        lines = (data / "sentconv" / name).read_text("latin-1").splitlines()
        splits.append([line.split(" ", 1) for line in lines if " " in line])
    random.Random(0).shuffle(splits[0])
    vocabulary = numbers_of((word for _, sentence in splits[0] for word in sentence.split()), 3000)
    rows = [
        [
            {"input_ids": [vocabulary.get(w, UNKNOWN) for w in sentence.split()], "labels": [int(label)]}
            for label, sentence in split
        ]
        for split in splits
    ]
    return rows[0][:1200], rows[1][:500], 6


def sentences(data: Path) -> tuple[list[Any], list[Any], int]:
    splits = []
    for name in ("wnut17train.conll", "emerging.dev.conll"):
        blocks = (data / "wnut17" / name).read_text().replace("\t\n", "\n").split("\n\n")
        rows = [[line.split("\t") for line in block.splitlines() if line.count("\t") == 1] for block in blocks]
        splits.append([row for row in rows if row and all(word for word, _ in row)])
    random.Random(0).shuffle(splits[0])
    vocabulary = numbers_of((word for row in splits[0] for word, _ in row), 3000)
    tags = sorted({tag for split in splits for row in split for _, tag in row})
    rows = [
        [
            {"input_ids": [vocabulary.get(w, UNKNOWN) for w, _ in row], "labels": [tags.index(tag) for _, tag in row]}
            for row in split
        ]
        for split in splits
    ]
    return rows[0][:800], rows[1][:400], len(tags)


def translations(data: Path) -> tuple[list[Any], list[Any], int]:
    with gzip.open(data / "tatoeba_eng_deu" / "deu.txt.gz", "rt", encoding="utf-8") as file:
        pairs = [[side.split() for side in line.split("\t")[:2]] for line in file]
    pairs = [pair for pair in pairs if len(pair[0]) <= 12]
    random.Random(0).shuffle(pairs)
    vocabulary = numbers_of((word for pair in pairs[:3300] for side in pair for word in side), 2000)
    ids = [[[vocabulary.get(word, UNKNOWN) for word in side] + [END] for side in pair] for pair in pairs[:3300]]
    rows = [{"input_ids": source, "labels": target} for source, target in ids]
    return rows[:3000], rows[3000:], 2000


def hidden_words(data: Path) -> tuple[list[Any], list[Any], int]:
    with gzip.open(data / "tatoeba_eng_deu" / "deu.txt.gz", "rt", encoding="utf-8") as file:
        texts = list(dict.fromkeys(line.split("\t")[0] for line in file))
    draw = random.Random(0)
    words = [text.split() for text in draw.sample(texts, 6600)]
    vocabulary = numbers_of((word for sentence in words for word in sentence), 3000)
    rows = []
    for sentence in words:
        ids = [vocabulary.get(word, UNKNOWN) for word in sentence]
        hidden = set(draw.sample(range(len(ids)), -(-len(ids) // 6)))
        labels = [token if place in hidden else IGNORE for place, token in enumerate(ids)]
        rows.append(
            {"input_ids": [MASK if place in hidden else token for place, token in enumerate(ids)], "labels": labels}
        )
    return rows[:6000], rows[6000:], 3000


def encoder(kind: str, classes: int) -> torch.nn.Module:
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=3000, num_labels=classes, **size)
    head = {"classify": "SequenceClassification", "tag": "TokenClassification", "mlm": "MaskedLM"}[kind]
    return getattr(transformers, f"BertFor{head}")(config)


def translator(size: int) -> torch.nn.Module:
    shape = {"d_model": 64, **dict.fromkeys(("encoder_layers", "decoder_layers"), 1)}
    shape |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 128)
    shape |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    special = {"pad_token_id": 0, "eos_token_id": END, "decoder_start_token_id": BEGIN, "forced_eos_token_id": None}
    return transformers.MarianMTModel(transformers.MarianConfig(vocab_size=size, **shape, **special))


def collate(rows: list[Any]) -> dict[str, torch.Tensor]:
    ids = [row["input_ids"] for row in rows]
    labels = text.pad([row["labels"] for row in rows], IGNORE)
    return {"input_ids": text.pad(ids, 0), "attention_mask": text.attention_mask(ids), "labels": labels}


def collate_pairs(rows: list[Any]) -> dict[str, torch.Tensor]:
    return text.collate_pairs(rows, pad_token_id=0, decoder_start_token_id=BEGIN)


TASKS: dict[str, Any] = {
    "classify": (questions, {"global_batch_size": 16, "num_train_epochs": 4}),
    "tag": (sentences, {"global_batch_size": 16, "num_train_epochs": 3}),
    "translate": (translations, {"global_batch_tokens": 512, "num_train_epochs": 4}),
    "mlm": (hidden_words, {"global_batch_size": 32, "num_train_epochs": 4}),
}


def train(task: str, data: tuple[list[Any], list[Any], int], order: str, seed: int) -> dict[str, float]:
    train_rows, held_out, classes = data
    pairs = task == "translate"
    sides = ("input_ids", "labels") if pairs else ("input_ids",)
    lengths = np.array([[len(row[side]) for side in sides] for row in train_rows])
    made = collate_pairs if pairs else collate
    counted = sequence_to_sequence()

    def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        out = model(**{name: values for name, values in batch.items() if name != "labels"}).logits
        return out[:, None] if task == "classify" else out

    def summed(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        out = logits(model, batch)
        return torch.nn.functional.cross_entropy(out.flatten(0, 1), batch["labels"].flatten(), reduction="sum")

    loss = counted if pairs else Loss(summed, count_labels)

    def evaluate(model: Any) -> dict[str, float]:
        sums = np.zeros(3)
        for at in range(0, len(held_out), 50):
            batch = made(held_out[at : at + 50])
            with torch.no_grad():
                correct = (logits(model, batch).argmax(-1) == batch["labels"]).sum()
                sums += [float(loss.summed(model, batch)), float(correct), loss.count(batch)]
        return {"loss": sums[0] / sums[2], "accuracy": sums[1] / sums[2]}

    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            output_dir=folder + "/out", seed=seed, train_sampling_strategy=order, learning_rate=2e-3, eval_steps=0,
            save_steps=0, load_best_model_at_end=False, metric_for_best_model="loss", **TASKS[task][1],
        )  # fmt: skip
        accelerator = start(config)
        model = translator(classes) if pairs else encoder(task, classes)
        began = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            _, results = fit(
                accelerator, model, Examples(train_rows, lengths), config, collate=made, loss=loss, evaluate=evaluate
            )
    numbers = {name: results[f"eval_{name}"] for name in ("accuracy", "loss")}
    return numbers | {"train_loss": results["train_loss"], "cpu_s": time.process_time() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--quick", action="store_true", help="64 rows of each task, one seed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("accuracy", "loss", "train_loss", "cpu_s")
    print(
        "| task | order | accuracy of each seed | mean | loss | training loss | CPU s |\n|---|---|---|---|---|---|---|"
    )
    for task in args.tasks:
        data = TASKS[task][0](args.data)
        if args.quick:
            args.seeds, data = [1], (data[0][:64], data[1][:32], data[2])
        for order in ("random", "group_by_length"):
            runs = [train(task, data, order, seed) for seed in args.seeds]
            accuracy, loss, train_loss, cpu = (statistics.mean(run[name] for run in runs) for name in columns)
            by_seed = ", ".join(f"{run['accuracy']:.3f}" for run in runs)
            print(
                f"| {task} | {order} | {by_seed} | {accuracy:.3f} | {loss:.3f} | {train_loss:.3f} | {cpu:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
