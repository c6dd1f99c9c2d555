"""Code and paths planted in files that a command reads: no code runs, and no path is followed.

A try has really happened if the plant is live: what trusts it (`pickle.loads`, `load_from_disk`, an import in that
folder, `trust_remote_code=True`) does run or follow it.
"""

import contextlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
from transformers import AutoConfig, AutoTokenizer

from hftrain import cli
from hftrain.config import DataConfig
from hftrain.data.splits import load_splits
from scenarios import Row, Try, check, fork, wait
from tests.tiny import adapter_folder, chat_folder, plant
from tests.train.resume_worker import WorkerConfig, trace, train

ROOT = Path(cli.__file__).parents[2]
MARK = "planted code has run"


def live(mark: Path, trust: Callable[[], object]) -> bool:
    """Whether what trusts a plant makes the mark, which is then removed."""
    wait(fork(trust))
    happened = mark.exists()
    mark.unlink(missing_ok=True)
    return happened


# ------------------------------------------------------------------------------------------- Python of a model folder
def plant_models(folder: Path, mark: Path) -> dict[str, Path]:
    """A model of a class of its own; an adapter of one; a model of a known class, whose tokenizer alone is planted."""
    base = chat_folder(folder / "base")
    adapter_folder(base, folder / "adapter")
    places = {kind: folder / kind for kind in ("model", "adapter", "tokenizer")}
    for kind in ("model", "tokenizer"):
        shutil.copytree(base, places[kind])
        plant(places[kind], mark)
    shutil.copy(base / "config.json", places["tokenizer"])
    adapter = json.loads((places["adapter"] / "adapter_config.json").read_text())
    adapter["base_model_name_or_path"] = str(places["model"])
    (places["adapter"] / "adapter_config.json").write_text(json.dumps(adapter))
    for place in places.values():
        (place / "test_vectors.json").write_text('{"vectors": []}')
    return places


# an adapter's own tokenizer is sound; a language model is refused by `predict` before its tokenizer is read
NOT_READ = {("adapter", "prepare"), ("adapter", "check-serve"), ("tokenizer", "predict")}


def commands(place: Path, rows: Path, out: Path) -> dict[str, list[str]]:
    return {
        "predict": ["predict", str(place), "some words", "--max_new_tokens", "2"],
        "chat": ["chat", str(place), "--max_new_tokens", "2"],
        "merge": ["merge", str(place), "--output", str(out)],
        "export": ["export", str(place), "--output", str(out), "--max_new_tokens", "2"],
        "prepare": [
            "prepare", "--source", f"x={rows}", "--tokenizer", str(place), "--output_dir", str(out),
            "--num_workers", "1",
        ],
        "check-serve": ["check-serve", "http://localhost:9", str(place)],
    }  # fmt: skip


def answered(words: list[str]) -> Callable[[], object]:
    """Runs `hftrain` with `words` and a standard input that says yes to every question."""

    def run() -> None:
        with tempfile.TemporaryFile("w+") as answers, open(os.devnull, "w") as nothing:
            answers.write("y\n" * 4 + "/exit\n")
            answers.seek(0)
            sys.stdin = answers
            os.dup2(answers.fileno(), 0)
            os.dup2(nothing.fileno(), 2)
            cli.main(words)

    return run


def of_a_model_folder(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    mark, rows = folder / MARK, folder / "rows.jsonl"
    places = plant_models(folder, mark)
    rows.write_text('{"text": "a few words"}\n')
    trusting: dict[str, Callable[[], object]] = {
        "model": lambda: AutoConfig.from_pretrained(places["model"], trust_remote_code=True),
        "tokenizer": lambda: AutoTokenizer.from_pretrained(places["tokenizer"], trust_remote_code=True),
    }
    alive = {kind: live(mark, trust) for kind, trust in trusting.items()}
    alive["adapter"] = alive["model"]
    pairs = [(kind, command) for kind in places for command in commands(places[kind], rows, folder)]
    reading = [pair for pair in pairs if pair not in NOT_READ]
    for number, (kind, command) in enumerate(draw.sample(reading, 4) if sample else reading):
        wait(fork(answered(commands(places[kind], rows, folder / f"out-{number}")[command])))
        problem = "its code has run" if mark.exists() else None
        mark.unlink(missing_ok=True)
        yield Try(f"{command} of a planted {kind}", alive[kind], problem)


# ------------------------------------------------------------------------------------------------------------ pickles
class Plant:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


PICKLES = (
    "custom_checkpoint_0.pkl", "optimizer.bin", "scheduler.bin", "random_states_0.pkl", "optimizer.pt", "rng_state.pth",
    "training_args.bin", "pytorch_model.bin", "adapter_model.bin",
)  # fmt: skip


def of_a_checkpoint(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    """The run that goes on from it is the unbroken one: a file that nothing names is read by nothing."""
    mark, before, unbroken = folder / MARK, folder / "before", folder / "unbroken"
    train(WorkerConfig(output_dir=unbroken))
    with contextlib.suppress(SystemExit):
        train(WorkerConfig(output_dir=before, signal_step=5))
    for name in draw.sample(PICKLES, 2) if sample else PICKLES:
        out = shutil.copytree(before, folder / "out")
        for place in (out, *out.glob("checkpoint-*")):
            (place / name).write_bytes(pickle.dumps(Plant(mark)))
        alive = live(mark, lambda out=out, name=name: pickle.loads((out / name).read_bytes()))

        def ignored(out: Path = out) -> None:
            code = wait(fork(lambda: train(WorkerConfig(output_dir=out, resume_from_checkpoint="auto"))))
            assert not mark.exists(), "it has run"
            assert code == 0 and trace(out) == trace(unbroken)

        yield Try(f"{name} in the checkpoints and beside them", alive, check(ignored))
        mark.unlink(missing_ok=True)
        shutil.rmtree(out)


def of_weights(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    """A model, or an adapter, whose weights are a pickle."""
    mark = folder / MARK
    base = chat_folder(folder / "model")
    adapter_folder(base, folder / "adapter")
    weights = {"adapter": "adapter_model", "model": "model"}  # in this order: the adapter's base is good
    for kind, stem in weights.items():
        pickled = folder / kind / ("pytorch_model.bin" if kind == "model" else f"{stem}.bin")
        (folder / kind / f"{stem}.safetensors").unlink()
        pickled.write_bytes(pickle.dumps(Plant(mark)))
        alive = live(mark, lambda pickled=pickled: pickle.loads(pickled.read_bytes()))
        for command in ("merge", "chat"):
            words = commands(folder / kind, folder, folder / f"{kind}-{command}")[command]
            code = wait(fork(answered(words)))
            problem = f"it has run, exit code {code}" if mark.exists() else None
            yield Try(f"{command} of a {kind} with {pickled.name}", alive, problem)
            mark.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------ modules
MODULES = ("psutil", "datasets", "evaluate", "yaml")


def of_the_current_folder(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    """`hftrain run` in a folder with files that have names of packages; they would let the real ones be imported."""
    marks = {name: folder / f"{name} has run" for name in MODULES}
    for name, mark in marks.items():
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\nraise ImportError('planted')\n")
    (folder / "recipe.py").write_text(f"import {', '.join(MODULES)}\nprint('recipe has run')\n")
    how: dict[str, Any] = {"cwd": folder, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "capture_output": True}
    imports = "".join(f"try: import {name}\nexcept ImportError: pass\n" for name in MODULES)
    subprocess.run([sys.executable, "-c", imports], **how)
    alive = {name: mark.exists() for name, mark in marks.items()}
    for mark in marks.values():
        mark.unlink(missing_ok=True)
    done = subprocess.run([Path(sys.executable).with_name("hftrain"), "run", "recipe.py"], text=True, **how)
    for name, mark in marks.items():
        passed = not mark.exists() and done.returncode == 0 and "recipe has run" in done.stdout
        problem = None if passed else f"has run: {mark.exists()}; exit code {done.returncode}: {done.stderr[-200:]!r}"
        yield Try(f"{name}.py in the current folder", alive[name], problem)


# -------------------------------------------------------------------------------------------------------------- paths
def of_a_saved_data_set(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    """A folder of `save_to_disk` whose JSON leads out of it."""
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": ["a secret"]}).save_to_disk(folder / "outside")
    secret = folder / "outside" / "data-00000-of-00001.arrow"
    ways: dict[str, tuple[str, str]] = {
        "a relative path": ("state.json", "../../outside/data-00000-of-00001.arrow"),
        "an absolute path": ("state.json", str(secret)),
        "a path that leaves and comes back": ("state.json", "../train/../../outside/data-00000-of-00001.arrow"),
        "a split": ("dataset_dict.json", "../outside"),
    }
    for number, (name, (file, path)) in enumerate(ways.items()):
        saved = folder / f"saved-{number}"
        datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a", "b"]})}).save_to_disk(saved)
        if file == "state.json":
            state = json.loads((saved / "train" / file).read_text())
            state["_data_files"] = [{"filename": path}]
            (saved / "train" / file).write_text(json.dumps(state))
        else:
            (saved / file).write_text(json.dumps({"splits": ["train", path]}))
        followed = datasets.load_from_disk(str(saved))
        alive = any(row["text"] == "a secret" for split in followed.values() for row in split)

        def refused(saved: Path = saved, path: str = path) -> None:
            try:
                load_splits(DataConfig(dataset_name=str(saved)), columns={"text": "text"})
            except ValueError as error:
                assert path in str(error) and "outside" in str(error), str(error)
            else:
                raise AssertionError("it was followed")

        yield Try(f"{name} in {file}", alive, check(refused))


ROWS: list[Row] = [
    ("Python code in a model folder, `y` on standard input: not run by any of six commands", of_a_model_folder),
    ("a planted pickle in a checkpoint: not run, and the run goes on bit-equal", of_a_checkpoint),
    ("weights that are a planted pickle: not run", of_weights),
    ("modules in the current folder that have names of packages: not imported by `hftrain run`", of_the_current_folder),
    ("a data set of `save_to_disk` that names files outside itself: refused", of_a_saved_data_set),
]
