"""Which batch, learning rate and length of training serve data of a given size: the grid behind the defaults.

    python bench/defaults.py --models MODELS --data ../shared/data --results defaults.jsonl   # runs what is missing
    python bench/defaults.py --results defaults.jsonl --table                                 # prints the table

MODELS holds `minilm` and `smollm2` as transformers folders. A run is a recipe on the first N rows of a data set
(shuffled once, by seed), scored on fixed test rows. Runs of the grid, and those with the settings of
`transformers.Trainer`, train on all N rows and keep the last weights, so that only the optimization is compared. A run
with the defaults has what a user has who sets nothing: the rows of validation are cut off the N, and choose the
checkpoint. Results are appended, one line a run; a run that has its line is not repeated.
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
DEFAULT: dict[str, Any] = {}  # nothing is set
TRAINERS = "Trainer's"
LOWER = ("loss", "perplexity")  # the lower, the better
SHARES = ("test_accuracy", "test_f1")  # of classes and entities; that of answers is in percent


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


def xquad(data: Path) -> dict[str, list[Any]]:
    """The last 18 of 48 articles are held out."""
    articles = json.loads((data / "xquad" / "xquad.en.json").read_text())["data"]
    splits: dict[str, list[Any]] = {"train": [], "validation": [], "test": []}
    for number, article in enumerate(articles):
        rows = splits["train" if number < 30 else "validation" if number < 36 else "test"]
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                answers = {key: [answer[key] for answer in asked["answers"]] for key in ("text", "answer_start")}
                row = {"title": article["title"], "context": paragraph["context"]}
                rows.append(row | {"question": asked["question"], "answers": answers})
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


def split(rows: list[dict[str, Any]], held_out: int = 500) -> dict[str, list[Any]]:
    random.Random(0).shuffle(rows)
    return {"train": rows[2 * held_out :], "validation": rows[:held_out], "test": rows[held_out : 2 * held_out]}


def similar(data: Path) -> list[tuple[str, float, str, str]]:
    """The pairs of sentences of STS that have a score: where they come from, the score from 0 to 5, the two."""
    files = sorted((data / "sts").glob("*.tsv"))
    lines = [(file.name.split(".")[1], line.split("\t")) for file in files for line in file.read_text().splitlines()]
    return [(source, float(score), one, two) for source, (score, one, two, *_) in lines if score.strip()]


def sources(data: Path) -> dict[str, list[Any]]:
    """Which of seven sources a sentence comes from: headlines, captions, forums, a dictionary and others."""
    return split([{"label": source, "text": one} for source, _, one, _ in similar(data)])


def similarity(data: Path) -> dict[str, list[Any]]:
    """Five classes, in order, that are hard to tell apart: how much two sentences say the same."""
    return split([{"label": str(min(4, int(score))), "text": a, "other": b} for _, score, a, b in similar(data)])


def emoji(data: Path) -> dict[str, list[Any]]:
    """Which of nine groups the name of an emoji belongs to: names of a few words."""
    symbols = json.loads((data / "emoji_google" / "emoji.json").read_text())
    rows = [{"label": symbol["category"], "text": symbol["name"].lower()} for symbol in symbols]
    return split([row for row in rows if row["label"] != "Component"], 300)


def multi30k(data: Path) -> dict[str, list[Any]]:
    def lines(name: str) -> list[str]:
        return gzip.decompress((data / "multi30k" / name).read_bytes()).decode().splitlines()

    def pairs(name: str) -> list[Any]:
        return [
            {"source": en, "target": de} for en, de in zip(lines(f"{name}.en.gz"), lines(f"{name}.de.gz"), strict=True)
        ]

    return {"train": pairs("train"), "validation": pairs("val"), "test": pairs("test_2016_flickr")}


def gsm8k(data: Path) -> dict[str, list[Any]]:
    lines = (data / "gsm8k" / "train.jsonl").read_text().splitlines()
    rows = [{"text": f"{row['question']}\n{row['answer']}"} for row in map(json.loads, lines)]
    return {"train": rows[:-200], "validation": rows[-200:]}


# ---- cases: recipe, data, settings of the recipe, the score, and the grid

SMALL = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4}
MINILM = {"model_name_or_path": "{models}/minilm", "max_seq_length": 128}
WINDOWS = {"max_seq_length": 320, "doc_stride": 96}
SIX = {"label_names": list("012345")}  # 50 rows may lack one
CASES: dict[str, dict[str, Any]] = {
    "sst2": {"recipe": "classify", "data": sst2, "settings": MINILM, "score": "test_accuracy", "test": 1821},
    "trec": {"recipe": "classify", "data": trec, "settings": MINILM | SIX, "score": "test_accuracy", "test": 500},
    "trec-new": {"recipe": "classify", "data": trec, "settings": SIX, "score": "test_accuracy", "test": 500},
    "sources": {"recipe": "classify", "data": sources, "settings": MINILM, "score": "test_accuracy", "test": 500},
    "similarity": {
        "recipe": "classify", "data": similarity, "settings": MINILM | {"text_pair_column": "other"},
        "score": "test_accuracy", "test": 500,
    },
    "emoji": {"recipe": "classify", "data": emoji, "settings": MINILM, "score": "test_accuracy", "test": 300},
    "sst2-new": {"recipe": "classify", "data": sst2, "settings": {}, "score": "test_accuracy", "test": 1821},
    "sources-new": {"recipe": "classify", "data": sources, "settings": {}, "score": "test_accuracy", "test": 500},
    "wnut": {"recipe": "tag", "data": wnut, "settings": MINILM, "score": "test_f1", "test": 500},
    "xquad": {"recipe": "answer", "data": xquad, "settings": MINILM | WINDOWS, "score": "test_f1", "test": 250},
    "tatoeba": {
        "recipe": "translate", "data": tatoeba, "settings": {"num_beams": 1}, "score": "test_sacrebleu", "test": 300,
    },
    "multi30k": {
        "recipe": "translate", "data": multi30k, "settings": {"num_beams": 1}, "score": "test_sacrebleu", "test": 300,
    },
    "gsm8k": {
        "recipe": "pretrain", "data": gsm8k, "score": "eval_perplexity", "test": 200,
        "settings": {"sample_tokens": 0, "model_config": SMALL},
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
    ("trec", 50, sized([(8, 20), (8, 10)], [2e-4, 1e-4])),
    ("trec", 200, sized([(8, 5), (8, 10)], [1e-4, 2e-4])),
    ("trec", 640, sized([(8, 3), (8, 5)], [1e-4, 2e-4])),
    ("trec", 1000, sized([(8, 2), (8, 4)], [1e-4])),
    ("trec", 5000, sized([(16, 2), (16, 3)], [1e-4, 2e-4])),
    ("sst2", 50, sized([(8, 20)], [1e-4, 2e-4])),
    ("sst2", 200, sized([(8, 5), (8, 10)], [1e-4, 2e-4])),
    ("sst2", 640, sized([(8, 3), (8, 5)], [1e-4])),
    ("sst2", 5000, sized([(16, 2), (16, 3)], [1e-4, 5e-5])),
    ("sources", 200, sized([(8, 5), (8, 10)], [1e-4, 2e-4])),
    ("sources", 640, sized([(8, 3), (8, 5)], [1e-4, 2e-4])),
    ("similarity", 200, sized([(8, 5), (8, 10)], [1e-4, 2e-4])),
    ("similarity", 640, sized([(8, 3), (8, 5)], [1e-4, 2e-4])),
    ("emoji", 200, sized([(8, 10), (8, 20)], [1e-4, 2e-4])),
    ("emoji", 640, sized([(8, 5), (8, 10)], [1e-4, 2e-4])),
    ("wnut", 200, sized([(8, 10), (8, 20)], [1e-4, 2e-4])),
    ("wnut", 360, sized([(8, 9)], [1e-4, 2e-4])),
    ("wnut", 1000, sized([(8, 3), (8, 5)], [1e-4, 2e-4])),
    ("xquad", 200, sized([(8, 10), (8, 20)], [1e-4, 2e-4])),
    ("xquad", 640, sized([(8, 5), (8, 10)], [1e-4, 2e-4])),
    ("trec-new", 200, sized([(16, 20), (16, 40)], [1e-3, 2e-3])),
    ("trec-new", 1000, sized([(16, 24)], [1e-3, 2e-3])),
    ("trec-new", 5000, sized([(32, 10)], [1e-3, 2e-3])),
    ("sst2-new", 1000, sized([(16, 12), (16, 24)], [1e-3, 2e-3])),
    ("sst2-new", 5000, sized([(32, 5), (32, 10)], [1e-3, 2e-3])),
    ("sources-new", 640, sized([(16, 20), (16, 37)], [1e-3, 2e-3])),
    ("shakespeare", 1000, tokens([1024, 512], [10, 3], [3e-3])),
    ("shakespeare", 1800, tokens([512, 1024], [10], [4e-3])),
    ("gsm8k", 500, tokens([512, 1024], [10], [2e-3, 4e-3])),
    ("multi30k", 1000, tokens([512], [20, 40], [2e-3, 4e-3])),
    ("tatoeba", 1000, tokens([512], [20, 40], [2e-3, 4e-3])),
    ("tatoeba", 5000, tokens([512, 1024], [10, 20], [2e-3])),
    ("instruct", 100, sized([(8, 1), (8, 3)], [5e-4, 1e-3])),
]  # fmt: skip


def run(name: str, rows: int, changes: dict[str, Any], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    case = CASES[name]
    splits = case["data"](args.data)
    train = splits["train"]
    random.Random(seed).shuffle(train)
    splits |= {"train": train[:rows], "validation": splits["validation"][:100]}
    if "test" not in splits:
        splits["validation"] = case["data"](args.data)["validation"]
    if "test" in splits:
        random.Random(0).shuffle(splits["test"])
        splits["test"] = splits["test"][: case["test"]]
    folder = Path(tempfile.mkdtemp())
    settings = case["settings"] | changes | {"seed": seed, "output_dir": str(folder / "out")}
    if changes:
        settings = SHARED | settings
    if not changes and "test" in splits:
        del splits["validation"]
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
    measured["chosen"] = {name: choice.value for name, choice in config.chosen.items()}
    return {"case": name, "rows": rows, "seed": seed, **changes, **measured, "scores": scores}


def best(done: list[dict[str, Any]], name: str, rows: int, grid: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The one setting of the grid that did best so far, for further seeds; none where none ran."""
    scores: dict[str, list[float]] = {}
    for row in done:
        if (row["case"], row["rows"]) == (name, rows):
            scores.setdefault(settings_of(row), []).append(row["score"])
    means = {settings_of(point): point for point in grid if settings_of(point) in scores}
    sign = -1 if CASES[name]["score"].endswith(LOWER) else 1
    return [means[max(means, key=lambda what: sign * statistics.mean(scores[what]))]] if means else []


def settings_of(row: dict[str, Any]) -> str:
    """The settings of a run: a step's size, the epochs and the rate of the grid, or whose settings it had."""
    if row.get("learning_rate") is None:
        return "default"
    if row.get("warmup_steps") == 0:
        return TRAINERS
    batch = row.get("global_batch_size") or f"{row['global_batch_tokens']:,} tokens"
    return f"{batch} x {row['num_train_epochs']:g} epochs, {row['learning_rate']:g}"


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["case"], row["rows"], row["seed"], settings_of(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--results", type=Path, default=Path("defaults.jsonl"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--cases", nargs="*", help="of the grid: trec, or trec:200 for one size")
    parser.add_argument("--arms", nargs="+", default=["default", "trainer", "grid"], help="best: of the grid so far")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    done = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    if args.table:
        table(done)
        verdicts(done)
        return
    known = {key(row) for row in done}
    for seed, (name, rows, grid) in itertools.product(args.seeds, GRID):
        arms = {"default": [DEFAULT], "trainer": [TRAINER], "grid": grid, "best": best(done, name, rows, grid)}
        wanted = not args.cases or {name, f"{name}:{rows}"} & set(args.cases)
        for changes in itertools.chain(*(arms[arm] for arm in args.arms)) if wanted else []:
            if key({"case": name, "rows": rows, "seed": seed, **changes}) in known:
                continue
            row = run(name, rows, changes, seed, args)
            with args.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            done.append(row)
            print(json.dumps({k: v for k, v in row.items() if k != "scores"}), flush=True)


def table(rows: list[dict[str, Any]]) -> None:
    """Markdown: each setting's score, its mean over the seeds and its range."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["rows"], settings_of(row)), []).append(row)
    print("| data | rows | settings | steps | score | seeds | CPU s |\n|---|---|---|---|---|---|---|")
    for (case, count, what), runs in sorted(groups.items()):
        scores = [row["score"] for row in runs]
        score = f"{statistics.mean(scores):.4g}"
        score += f" ({min(scores):.4g} to {max(scores):.4g})" if len(scores) > 1 else ""
        seconds = statistics.mean(row["seconds"] for row in runs)
        print(f"| {case} | {count} | {what} | {runs[0]['steps']} | {score} | {len(runs)} | {seconds:.0f} |")


def verdicts(rows: list[dict[str, Any]]) -> None:
    """Markdown: of each data set and size that has all arms, how far the default is from the best of the grid (points;
    of a perplexity or a loss, percent), and whether it is below Trainer's settings."""
    print("\n| data | rows | seeds | default | best of the grid | behind it by | Trainer's | within the aim |")
    print("|---|---|---|---|---|---|---|---|")
    for case, count in sorted({(row["case"], row["rows"]) for row in rows}):
        scores: dict[str, list[float]] = {}
        for row in rows:
            if (row["case"], row["rows"]) == (case, count):
                scores.setdefault(settings_of(row), []).append(row["score"])
        means = {what: statistics.mean(seeds) for what, seeds in scores.items()}
        grid = {what: mean for what, mean in means.items() if what not in ("default", TRAINERS)}
        if not grid or "default" not in means or TRAINERS not in means:
            continue
        metric = CASES[case]["score"]
        lower = metric.endswith(LOWER)
        best = min(grid, key=grid.__getitem__) if lower else max(grid, key=grid.__getitem__)
        points = 100 if metric in SHARES and case != "xquad" else 1
        behind = 100 * (means["default"] / grid[best] - 1) if lower else points * (grid[best] - means["default"])
        beaten = means["default"] > means[TRAINERS] if lower else means["default"] < means[TRAINERS]
        aim = "yes" if behind <= (2 if lower else 1) and not beaten else "no"
        cells = (case, count, len(scores["default"]), *(f"{x:.4g}" for x in (means["default"], grid[best])))
        print(f"| {' | '.join(map(str, cells))} ({best}) | {behind:+.1f} | {means[TRAINERS]:.4g} | {aim} |")


if __name__ == "__main__":
    main()
