"""Cross-validation: a model trained on the other folds tests each fold once."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hftrain import disk
from hftrain.config import RecipeConfig, changed
from hftrain.config.errors import explain_disk
from hftrain.report import Table, bars, write_report
from hftrain.report.progress import say
from hftrain.report.scores import bounds, format_score
from hftrain.terminal import visible

C = TypeVar("C", bound=RecipeConfig)
SCORES = "cross_validation.json"
NOTE = (
    "95 %: the interval of the mean by the corrected resampled t-test (Nadeau and Bengio 2003), which considers the "
    "rows that the training sets share. No model here is trained on all rows: to get one, run without folds."
)


def cross_validate(main: Callable[[C], dict[str, Any]], config: C) -> dict[str, Any]:
    """Runs `main` for each fold, in `output_dir`/fold-1, fold-2, ..., and writes a summary of their test scores.

    With `resume_from_checkpoint` auto, each fold continues where it stopped; a finished one is only scored again.

    Returns:
        {"folds", "scores": `summarize`, "by_fold": the result of `main` for each}, as in `cross_validation.json`.
    """
    from accelerate import PartialState

    assert config.folds is not None
    folder, results = Path(config.output_dir), []
    for fold in range(1, config.folds + 1):
        name = f"fold-{fold}"
        run_name = config.run_name and f"{config.run_name}-{name}"
        results.append(main(replace(config, fold=fold, output_dir=str(folder / name), run_name=run_name)))
        gc.collect()  # free the model of this fold before the next one is loaded
    outcome = {"folds": config.folds, "scores": summarize(results), "by_fold": results}
    if PartialState().is_main_process:
        write(folder, config, outcome)
    return outcome


def summarize(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """For each test score that every fold has: {"mean", "spread", "low", "high"}.

    spread: the standard deviation over the folds; low, high: the 95 % interval of the mean, whose variance is
    (1 / K + 1 / (K - 1)) spread ** 2 of K folds (Nadeau and Bengio 2003), within the range of the score. Folds that
    agree have no interval: a width of 0 would be too optimistic for so few.
    """
    scores = {}
    folds = len(results)
    for name, first in results[0].items():
        values: list[Any] = [result.get(name) for result in results]
        if not name.startswith("test_") or isinstance(first, bool):
            continue
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            continue
        numbers = np.array(values, dtype=float)
        mean, spread = float(numbers.mean()), float(numbers.std(ddof=1))
        half = student_t(folds - 1) * spread * math.sqrt(1 / folds + 1 / (folds - 1))
        scores[name] = {"mean": mean, "spread": spread}
        if spread:
            least, most = bounds(_metric(name), task_of(results))
            scores[name] |= {"low": max(least, mean - half), "high": min(most, mean + half)}
    return scores


def student_t(freedom: int) -> float:
    """The bound around 0 that contains 95 % of Student's t with `freedom` degrees of freedom."""
    # t = sqrt(freedom) tan(angle) turns the density into cos(angle) ** (freedom - 1), which has no tail
    angles = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    shares = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(0.95 * shares[-1], shares, angles)))


@explain_disk(
    "all folds are trained, but their summary was not written",
    "Make room, or repair the folder, and run again with --resume_from_checkpoint auto: it only scores and reports",
)
def write(folder: Path, config: RecipeConfig, outcome: Mapping[str, Any]) -> None:
    """Writes `cross_validation.json` and `report.html`, and prints the scores."""
    folder.mkdir(parents=True, exist_ok=True)
    disk.write(folder / SCORES, json.dumps(outcome, indent=2, default=str) + "\n")
    scores: dict[str, dict[str, float]] = outcome["scores"]
    guesses = [result.get("baseline") or {} for result in outcome["by_fold"]]
    guessed = {
        name: float(np.mean([guess[name] for guess in guesses]))
        for name in scores
        if all(name in guess for guess in guesses)
    }
    remarks = [
        f"fold-{number}: {remark}"
        for number, result in enumerate(outcome["by_fold"], 1)
        for remark in result.get("remarks") or []
    ]
    task = task_of(outcome["by_fold"])
    shown = {name: interval(name, values, task) for name, values in scores.items()}
    rivals = {
        name: f"a constant guess has {format_score(_metric(name), value, task=task)}" for name, value in guessed.items()
    }
    folds = [
        {"fold": f"fold-{number}", **{name: result[name] for name in scores}}
        for number, result in enumerate(outcome["by_fold"], 1)
    ]
    rows = [{"score": name, **values} for name, values in scores.items()]
    charts = [
        bars(name, name.replace("_", " "), {row["fold"]: row[name] for row in folds}, note=shown[name])
        for name in scores
        if min(row[name] for row in folds) >= 0
    ]
    write_report(
        folder,
        title=f"Cross-validation of {config.tested_on}",
        lead=f"A model trained on the other folds tested each of {outcome['folds']} folds.",
        summary={name.replace("_", " "): text for name, text in shown.items()},
        beside={name.replace("_", " "): text for name, text in rivals.items()},
        remarks=remarks,
        about=[
            f"trained from {base}" if (base := getattr(config, "model_name_or_path", None)) else "trained from scratch"
        ],
        config=asdict(config),
        changed=changed(config),
        history=[],
        figures=charts,
        tables=[Table("Scores", rows, note=NOTE), Table("By fold", folds)],
    )
    for name, values in scores.items():
        spread = format_score(_metric(name), values["spread"], task=task)
        say(visible(", ".join([f"{name}: {shown[name]}", f"spread {spread}", *filter(None, [rivals.get(name)])])))
    for remark in remarks:
        say(visible(f"note: {remark}"))
    say(visible(f"{outcome['folds']} folds; scores and report: {folder / SCORES}, {folder / 'report.html'}. {NOTE}"))


def interval(name: str, values: Mapping[str, float], task: str) -> str:
    """The mean of a score with its interval, where it has one."""
    mean = format_score(_metric(name), values["mean"], task=task)
    if "low" not in values:
        return f"{mean} (all folds agree)"
    low, high = (format_score(_metric(name), values[end], task=task) for end in ("low", "high"))
    return f"{mean} (95 %: {low} to {high})"


def task_of(results: Sequence[Mapping[str, Any]]) -> str:
    return str(results[0].get("task", ""))


def _metric(name: str) -> str:
    return name.removeprefix("test_")
