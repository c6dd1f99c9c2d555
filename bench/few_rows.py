"""What training rows cost that are set aside: accuracy over the share of the rows that is left to train on.

    python bench/few_rows.py --models MODELS --data ../shared/data

Logistic regression on MiniLM's mean vectors of TREC's questions and of the sentences of SST-2, 16 drawings of the
training rows: cheap enough to see differences of a point, which whole trainings would need days for. Prints Markdown.
"""

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from defaults import CASES

SIZES, SHARES, DRAWINGS = (50, 200, 640, 1000), (0.95, 0.9, 0.8), 16
DECAY = 1e-3  # of the weights, per class and dimension


@torch.no_grad()
def embed(texts: list[str], tokenizer: Any, model: Any) -> torch.Tensor:
    """(N, D + 1): mean vectors of length 4 and a constant."""
    vectors = torch.zeros(len(texts), model.config.hidden_size)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        batch = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
        mask = batch["attention_mask"][..., None]
        vectors[rows] = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    return torch.cat([4 * torch.nn.functional.normalize(vectors, dim=1), torch.ones(len(texts), 1)], dim=1)


def learn(vectors: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """(D + 1, classes)."""
    weights = torch.zeros(vectors.shape[1], classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(vectors @ weights, labels) + DECAY * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def main() -> None:
    from transformers import AutoModel, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cases", nargs="+", default=["trec", "sst2"])
    parser.add_argument("--quick", action="store_true", help="two drawings of 50 of 100 rows, to see that it runs")
    args = parser.parse_args()
    sizes, drawings, most = (SIZES[:1], 2, 100) if args.quick else (SIZES, DRAWINGS, 1500)
    tokenizer = AutoTokenizer.from_pretrained(args.models / "minilm")
    model = AutoModel.from_pretrained(args.models / "minilm").eval()
    print(f"| data | rows | all | {' | '.join(f'{share:.0%}' for share in SHARES)} |")
    print("|---" * (3 + len(SHARES)) + "|")
    for name in args.cases:
        splits = CASES[name]["data"](args.data)
        random.Random(5).shuffle(splits["train"])
        random.Random(0).shuffle(splits["test"])
        rows = {"train": splits["train"][:most], "test": splits["test"][:500]}
        vectors = {split: embed([row["text"] for row in part], tokenizer, model) for split, part in rows.items()}
        labels = {split: torch.tensor([int(row["label"]) for row in part]) for split, part in rows.items()}

        def accuracy(chosen: np.ndarray, vectors: Any = vectors, labels: Any = labels) -> float:
            weights = learn(vectors["train"][chosen], labels["train"][chosen], int(labels["train"].max()) + 1)
            return 100 * float(((vectors["test"] @ weights).argmax(1) == labels["test"]).float().mean())

        for size in sizes:
            drawn = [np.random.default_rng(seed).permutation(len(rows["train"]))[:size] for seed in range(drawings)]
            whole = np.array([accuracy(part) for part in drawn])
            cells = []
            for share in SHARES:
                lost = np.array([accuracy(part[: round(size * share)]) for part in drawn]) - whole
                cells.append(f"{lost.mean():+.1f} +- {lost.std() / drawings**0.5:.1f}")
            print(f"| {name} | {size} | {whole.mean():.1f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
