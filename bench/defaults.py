"""Which batch, learning rate and length of training serve data of a given size: the grid behind the defaults.

    python bench/defaults.py --models MODELS --data ../shared/data --results defaults.jsonl   # runs what is missing
    python bench/defaults.py --results defaults.jsonl --table                                 # prints the table

MODELS holds `minilm` and `smollm2` as transformers folders. A run is a recipe on the first N rows of a data set
(shuffled once, by seed), scored on fixed test rows without choosing among checkpoints, so that only the optimization
is compared. Results are appended, one line a run; a run that has its line is not repeated.
"""

import argparse
import contextlib
import gzip
import importlib
import io
import itertools
import json
import os
import random
import resource
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any, get_type_hints

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

SHARED: dict[str, Any] = {
    "eval_steps": 0, "save_steps": 0, "load_best_model_at_end": False, "lr_scheduler_type": "linear",
    "warmup_steps": 0.1, "logging_steps": 1000,
}  # fmt: skip
TRAINER = {"global_batch_size": 8, "num_train_epochs": 3, "learning_rate": 5e-5, "warmup_steps": 0, "weight_decay": 0.0}


# ---- data: {"train": rows, "validation": rows, "test": rows}


def labelled(path: Path, encoding: str = "utf-8") -> list[dict[str, Any]]:
    lines = path.read_text(encoding).splitlines()
    return [dict(zip(("label", "text"), line.split(" ", 1), strict=True)) for line in lines if " " in line]


def sst2(data: Path) -> dict[str, list[Any]]:
    folder = data / "sentconv"
    files = {"train": "train", "validation": "dev", "test": "test"}
    return {split: labelled(folder / f"stsa.binary.{name}") for split, name in files.items()}


def trec(data: Path) -> dict[str, list[Any]]:
    folder = data / "sentconv"
    train = labelled(folder / "TREC.train.all", "latin-1")
    return {"train": train[:-300], "validation": train[-300:], "test": labelled(folder / "TREC.test.all", "latin-1")}


def wnut(data: Path) -> dict[str, list[Any]]:
    names = {"train": "wnut17train.conll", "validation": "emerging.dev.conll", "test": "emerging.test.annotated"}
    splits = {}
    for split, name in names.items():
        sentences = (data / "wnut17" / name).read_text().replace("\t\n", "\n").split("\n\n")
        rows = [[line.split("\t") for line in s.splitlines() if line.count("\t") == 1] for s in sentences]
        whole = [row for row in rows if row and all(word for word, _ in row)]
        splits[split] = [{"tokens": [w for w, _ in row], "tags": [t for _, t in row]} for row in whole]
    return splits


def tatoeba(data: Path) -> dict[str, list[Any]]:
    with gzip.open(data / "tatoeba_eng_deu" / "deu.txt.gz", "rt", encoding="utf-8") as file:
        pairs = [line.rstrip("\n").split("\t")[:2] for line in file]
    rows = [{"source": en, "target": de} for en, de in pairs if len(en.split()) <= 6]
    random.Random(0).shuffle(rows)
    return {"train": rows[1000:], "validation": rows[:500], "test": rows[500:1000]}


def shakespeare(data: Path) -> dict[str, list[Any]]:
    paragraphs = [p for p in (data / "tinyshakespeare" / "input.txt").read_text().split("\n\n") if p.strip()]
    rows = [{"text": p} for p in paragraphs]
    return {"train": rows[:-400], "validation": rows[-400:]}


def instructions(data: Path) -> dict[str, list[Any]]:
    rows = json.loads((data / "llms_from_scratch_instruct" / "instruction-data.json").read_text())
    return {"train": rows[:-160], "validation": rows[-160:-80], "test": rows[-80:]}


# ---- cases: recipe, data, settings of the recipe, the score, and the grid

SMALL = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4}
MINILM = {"model_name_or_path": "{models}/minilm", "max_seq_length": 128}
FEW, MORE = [(8, 3), (8, 10), (8, 20), (16, 20), (32, 3)], [(8, 3), (8, 10), (16, 5), (16, 10), (32, 3)]
CASES: dict[str, dict[str, Any]] = {
    "sst2": {"recipe": "classify", "data": sst2, "settings": MINILM, "score": "test_accuracy", "test": 500},
    "trec": {"recipe": "classify", "data": trec, "settings": MINILM, "score": "test_accuracy", "test": 500},
    "trec-new": {"recipe": "classify", "data": trec, "settings": {}, "score": "test_accuracy", "test": 500},
    "wnut": {"recipe": "tag", "data": wnut, "settings": MINILM, "score": "test_f1", "test": 500},
    "tatoeba": {
        "recipe": "translate", "data": tatoeba, "settings": {"num_beams": 1}, "score": "test_sacrebleu", "test": 300,
    },
    "shakespeare": {
        "recipe": "pretrain", "data": shakespeare, "score": "eval_perplexity", "test": 400,
        "settings": {"sample_tokens": 0, "model_config": SMALL},
    },
    "instruct": {
        "recipe": "chat", "data": instructions, "score": "test_loss", "test": 80,
        "settings": {
            "model_name_or_path": "{models}/smollm2", "use_peft": True, "num_samples": 0, "max_length": 256,
            "micro_batch_tokens": 512,
        },
    },
}  # fmt: skip


def sized(batches: list[tuple[int, float]], rates: list[float]) -> list[dict[str, Any]]:
    return [
        {"global_batch_size": size, "num_train_epochs": epochs, "learning_rate": rate}
        for (size, epochs), rate in itertools.product(batches, rates)
    ]


def tokens(batches: list[int], epochs: list[float], rates: list[float]) -> list[dict[str, Any]]:
    return [
        {"global_batch_tokens": size, "num_train_epochs": epoch, "learning_rate": rate}
        for size, epoch, rate in itertools.product(batches, epochs, rates)
    ]


GRID: list[tuple[str, int, list[dict[str, Any]]]] = [
    ("shakespeare", 1000, tokens([512, 1024, 2048, 16384], [1], [2e-3, 4e-3])),
    ("wnut", 360, [TRAINER, *sized([(8, 3), (8, 9)], [1e-4, 2e-4])]),
    ("sst2", 200, [TRAINER, *sized([(8, 10)], [1e-4, 2e-4])]),
    ("sst2", 50, [TRAINER, *sized([(8, 20)], [1e-4, 2e-4])]),
    ("tatoeba", 1000, tokens([512, 1024], [20], [2e-3, 4e-3])),
    ("trec", 50, [TRAINER, *sized([(8, 20)], [1e-4, 2e-4])]),
    ("trec", 1000, [TRAINER, *sized([(8, 3), (8, 5)], [1e-4])]),
    ("trec-new", 1000, sized([(16, 10), (16, 30)], [5e-4, 1e-3])),
    ("sst2", 1000, [TRAINER, *sized([(8, 3)], [1e-4])]),
    ("trec", 200, [TRAINER, *sized([(8, 3), (8, 10), (8, 20), (16, 20), (32, 3)], [1e-4, 2e-4, 4e-4])]),
]  # fmt: skip


def run(name: str, rows: int, changes: dict[str, Any], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    case = CASES[name]
    splits = case["data"](args.data)
    train = splits["train"]
    random.Random(seed).shuffle(train)
    splits |= {"train": train[:rows], "validation": splits["validation"][:100]}
    if name == "shakespeare":
        splits["validation"] = case["data"](args.data)["validation"]
    if "test" in splits:
        random.Random(0).shuffle(splits["test"])
        splits["test"] = splits["test"][: case["test"]]
    folder = Path(tempfile.mkdtemp())
    settings = SHARED | case["settings"] | changes | {"seed": seed, "output_dir": str(folder / "out")}
    for split, content in splits.items():
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        settings[f"{split}_file"] = str(path)
    if "model_name_or_path" in settings:
        settings["model_name_or_path"] = settings["model_name_or_path"].format(models=args.models)
    module = importlib.import_module(f"recipes.{case['recipe']}")
    config = get_type_hints(module.main)["config"](**settings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        results = module.main(config)
    seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
    shutil.rmtree(folder)
    scores = {
        key: value
        for key, value in results.items()
        if key.startswith(("test_", "eval_")) and isinstance(value, int | float)
    }
    measured = {"score": results[case["score"]], "steps": results["total_steps"], "seconds": round(seconds, 1)}
    return {"case": name, "rows": rows, "seed": seed, **changes, **measured, "scores": scores}


def key(row: dict[str, Any]) -> str:
    names = ["case", "rows", "seed", "global_batch_size", "global_batch_tokens", "num_train_epochs", "learning_rate"]
    names.append("warmup_steps")
    return json.dumps([row.get(name) for name in names])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--results", type=Path, default=Path("defaults.jsonl"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--cases", nargs="*")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    done = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    if args.table:
        table(done)
        return
    known = {key(row) for row in done}
    for seed, (name, rows, grid) in itertools.product(args.seeds, GRID):
        for changes in grid if not args.cases or name in args.cases else []:
            if key({"case": name, "rows": rows, "seed": seed, **changes}) in known:
                continue
            row = run(name, rows, changes, seed, args)
            with args.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps({k: v for k, v in row.items() if k != "scores"}), flush=True)


def table(rows: list[dict[str, Any]]) -> None:
    """Markdown: each setting's mean score over the seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        batch = row.get("global_batch_size") or f"{row['global_batch_tokens']} tokens"
        what = "Trainer's" if row.get("warmup_steps") == 0 else ""
        setting = (row["case"], row["rows"], batch, row["num_train_epochs"], row["learning_rate"], what)
        groups.setdefault(setting, []).append(row)
    print("| data | rows | batch | epochs | learning rate | steps | score | CPU s |\n|---|---|---|---|---|---|---|---|")
    for (case, count, batch, epochs, rate, what), found in groups.items():
        score = statistics.mean(row["score"] for row in found)
        seconds = statistics.mean(row["seconds"] for row in found)
        columns = (
            case,
            count,
            f"{batch} {what}",
            epochs,
            f"{rate:g}",
            found[0]["steps"],
            f"{score:.4g}",
            f"{seconds:.0f}",
        )
        print(f"| {' | '.join(map(str, columns))} |")


if __name__ == "__main__":
    main()
