"""Settings and inputs that change between a stop and a resume: refused, reported, or without effect, as documented."""

import contextlib
import io
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hftrain.train import checkpoint
from scenarios import Row, Try, check
from tests.train.resume_worker import WorkerConfig, trace, train

REFUSED: list[tuple[dict[str, Any], dict[str, str], str]] = [  # settings, environment, key that the error names
    ({"learning_rate": 0.02}, {}, "learning_rate"),
    ({"seed": 4}, {}, "seed"),
    ({"optim": "adafactor"}, {}, "optim"),
    ({"weight_decay": 0.5}, {}, "weight_decay"),
    ({"global_batch_size": 4}, {}, "global_batch_size"),
    ({"max_steps": 20}, {}, "total_steps"),
    ({"ema_decay": 0.9}, {}, "ema_decay"),
    ({"dropout": 0.5}, {}, "model.dropout"),
    ({"width": 8}, {}, "model.hidden_size"),
    ({"examples": 19}, {}, "examples"),
    ({}, {"ROWS_SEED": "5"}, "train_data"),
    ({}, {"HELD_OUT_SEED": "5"}, "validation_data"),
    ({"eval_steps": 2}, {}, "eval_steps"),
    ({"early_stopping_patience": 3}, {}, "early_stopping_patience"),
    ({"metric_for_best_model": "accuracy"}, {}, "metric_for_best_model"),
    ({"load_best_model_at_end": False}, {}, "load_best_model_at_end"),
    ({"label_smoothing_factor": 0.1}, {}, "label_smoothing_factor"),
]
ALLOWED: list[dict[str, Any]] = [
    {"eval_batch_size": 2},
    {"save_steps": 1},
    {"save_total_limit": 5},
    {"logging_steps": 1},
    {"dataloader_num_workers": 1},
    {"micro_batch_size": 8},  # the same cut: the batch has 8 examples
    {"max_nonfinite_steps": 3},
    {"ddp_timeout": 60},
]


class BrokenOff(Exception):
    pass


def stopped(folder: Path) -> Path:
    def break_off(step: int, model: Any) -> None:
        if step == 5:
            raise BrokenOff

    with contextlib.suppress(BrokenOff):
        train(WorkerConfig(output_dir=folder / "stopped"), break_off)
    return folder / "stopped"


def refusals(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    config = WorkerConfig(output_dir=stopped(folder), resume_from_checkpoint="auto")
    for settings, environment, key in draw.sample(REFUSED, 4) if sample else REFUSED:

        def refused(settings: Any = settings, key: str = key) -> None:
            try:
                train(replace(config, **settings))
            except ValueError as error:
                assert f"  {key}: " in str(error) and "--resume_allow" in str(error), str(error)
            else:
                raise AssertionError("continued silently")

        os.environ.update(environment)
        try:
            yield Try(f"{settings or environment}", True, check(refused))
        finally:
            for name in environment:
                del os.environ[name]


def allowances(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    before = stopped(folder)
    train(WorkerConfig(output_dir=folder / "unbroken"))
    expected = weights(folder / "unbroken")
    for settings in draw.sample(ALLOWED, 2) if sample else ALLOWED:

        def bit_equal(settings: Any = settings) -> None:
            out = shutil.copytree(before, folder / "out")
            try:
                train(WorkerConfig(output_dir=out, resume_from_checkpoint="auto", **settings))
                assert weights(out) == expected
            finally:
                shutil.rmtree(out)

        yield Try(f"{settings}", True, check(bit_equal))


def weights(folder: Path) -> dict[str, Any]:
    return {name: value for name, value in trace(folder).items() if name.startswith(("saved", "final"))}


def reports(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    before = stopped(folder)

    def log_cut(out: Path) -> None:
        lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
        (out / "metrics.jsonl").write_text("".join(lines[1:]))

    def other_name(out: Path) -> None:
        shutil.copytree(out / "checkpoint-4", out / "checkpoint-9")

    tries = [
        ("a line of the log deleted", log_cut, {}, "lines that were logged up to step 4"),
        ("the log deleted", lambda out: (out / "metrics.jsonl").unlink(), {}, "has 0 of the"),
        ("a checkpoint copied to another step's name", other_name, {}, "passed over checkpoint-9"),
        ("another cut", lambda out: None, {"micro_batch_size": 3}, "the micro-batches differ from the saved run"),
        (
            "the best checkpoint deleted",
            lambda out: shutil.rmtree(out / "checkpoint-3"),
            {},
            "best model is chosen anew",
        ),
    ]
    for name, harm, settings, sentence in draw.sample(tries, 2) if sample else tries:

        def reported(harm: Any = harm, settings: Any = settings, sentence: str = sentence) -> None:
            out = shutil.copytree(before, folder / "out")
            try:
                harm(out)
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    train(WorkerConfig(output_dir=out, resume_from_checkpoint="auto", **settings))
                assert sentence in printed.getvalue().replace("\n", " "), printed.getvalue()
                assert checkpoint.read(checkpoint.checkpoints(out)[-1]).step == 12
            finally:
                shutil.rmtree(out)

        yield Try(name, True, check(reported))


torch.set_num_threads(1)
ROWS: list[Row] = [
    ("a setting or input changed before a resume: refused with both values", refusals),
    ("a setting changed that no result depends on: the run ends bit-equal", allowances),
    ("log, cut, folder names changed before a resume: reported, and the run ends", reports),
]
