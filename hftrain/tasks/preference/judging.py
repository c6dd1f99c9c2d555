"""What a reader should know of the scores: their intervals, and the baseline of a model without a preference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hftrain.data.examples import Examples
from hftrain.metrics.intervals import wilson
from hftrain.report.scores import no_better
from hftrain.tasks.preference.config import PreferenceConfig
from hftrain.tasks.preference.losses import bradley_terry, objective

GUESS = "a random choice between the answers"


def judge_preferences(
    scores: Mapping[str, float], config: PreferenceConfig, examples: Mapping[str, Examples]
) -> dict[str, Any]:
    """`baseline`, `intervals` and `remarks` of the test rows, for `publish`. The baseline gives all answers the same
    reward; for orpo it has no loss."""
    test, baseline, guess = examples["test"], {"test_reward_accuracy": 0.5}, GUESS
    desirable = torch.zeros(len(test), dtype=torch.bool)
    if config.loss_type == "kto":
        desirable = torch.from_numpy(np.array(test.column("desirable"), dtype=bool))
        common = bool(np.mean(examples["train"].column("desirable")) >= 0.5)
        baseline = {"test_reward_accuracy": float((desirable == common).double().mean())}
        guess = f"calling every answer {'good' if common else 'bad'}"
    if config.loss_type != "orpo":
        alike = torch.zeros(len(test), 2, dtype=torch.float64)
        baseline["test_loss"] = float(objective(config, alike, alike + 1, 0.0, desirable)) / len(test)
    return _judged("reward_accuracy", scores, baseline, len(test), guess)


def judge_rewards(scores: Mapping[str, float], pairs: int) -> dict[str, Any]:
    """The same for a reward model."""
    alike = torch.zeros(1, dtype=torch.float64)
    baseline = {"test_accuracy": 0.5, "test_loss": float(bradley_terry(alike, alike))}
    return _judged("accuracy", scores, baseline, pairs, GUESS)


def _judged(
    metric: str, scores: Mapping[str, float], baseline: dict[str, float], size: int, guess: str
) -> dict[str, Any]:
    evidence: dict[str, Any] = {
        "baseline": baseline,
        "intervals": {f"test_{metric}": wilson(round(scores[metric] * size), size)},
    }
    results = {f"test_{metric}": scores[metric]}
    return evidence | {"remarks": no_better(f"test_{metric}", results, **evidence, guess=guess)}
