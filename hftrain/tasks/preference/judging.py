"""How good the scores of preferences and rewards are: their intervals, and what a model without a preference has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hftrain.metrics.intervals import wilson
from hftrain.report.scores import no_better
from hftrain.tasks.preference.config import PreferenceConfig
from hftrain.tasks.preference.losses import bradley_terry, objective

if TYPE_CHECKING:
    from datasets import Dataset

GUESS = "answers drawn by lot"


def judge_preferences(
    results: Mapping[str, Any], config: PreferenceConfig, examples: Mapping[str, Dataset]
) -> dict[str, Any]:
    """`baseline`, `intervals` and `remarks` of the test rows, for `publish`. The guess gives all answers one reward;
    orpo has no loss of it."""
    test, baseline, guess = examples["test"], {"test_reward_accuracy": 0.5}, GUESS
    desirable = torch.zeros(len(test), dtype=torch.bool)
    if config.loss_type == "kto":
        desirable = torch.from_numpy(np.array(test["desirable"], dtype=bool))
        common = bool(np.mean(examples["train"]["desirable"]) >= 0.5)
        baseline = {"test_reward_accuracy": float((desirable == common).double().mean())}
        guess = f"taking every answer for a {'good' if common else 'bad'} one"
    if config.loss_type != "orpo":
        alike = torch.zeros(len(test), 2, dtype=torch.float64)
        baseline["test_loss"] = float(objective(config, alike, alike + 1, 0.0, desirable)) / len(test)
    return _judged("test_reward_accuracy", results, baseline, len(test), guess)


def judge_rewards(results: Mapping[str, Any], pairs: int) -> dict[str, Any]:
    """The same of a reward model."""
    alike = torch.zeros(1, dtype=torch.float64)
    baseline = {"test_accuracy": 0.5, "test_loss": float(bradley_terry(alike, alike))}
    return _judged("test_accuracy", results, baseline, pairs, GUESS)


def _judged(
    metric: str, results: Mapping[str, Any], baseline: dict[str, float], size: int, guess: str
) -> dict[str, Any]:
    evidence: dict[str, Any] = {
        "baseline": baseline,
        "intervals": {metric: wilson(round(results[metric] * size), size)},
    }
    return evidence | {"remarks": no_better(metric, results, **evidence, guess=guess)}
