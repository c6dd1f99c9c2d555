"""How good the scores of a classification are: their intervals, a constant guess's scores, classes that are never
predicted. Shapes: N examples, K classes or labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hftrain.classification.scoring import Scores, constant_guess, decide
from hftrain.classification.settings import ClassificationConfig
from hftrain.metrics import FITTING, load_metrics
from hftrain.metrics.intervals import Interval, bootstrap, mean, wilson
from hftrain.report.scores import MORE_TRAINING, never_predicted, no_better


def judge(
    scores: Scores,
    references: np.ndarray,
    training: np.ndarray,
    config: ClassificationConfig,
    names: Sequence[str],
    thresholds: Sequence[float] = (),
) -> dict[str, Any]:
    """`baseline`, `intervals` and `remarks` of the test rows, for `publish`.

    Args:
        references, training: what is right in the test rows and in the training rows.
    """
    problem, size = config.problem_type, len(references)
    said = decide(scores.outputs, problem, thresholds)

    ours = [name for name in config.metrics if name in FITTING[problem]]  # another's may take its time

    def measured(said: np.ndarray, right: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        metrics = load_metrics(ours, problem, labels=names)
        metrics.add(said, right, outputs)
        return metrics.compute_defined()

    guess = constant_guess(training, references, problem, len(names))
    guessed = decide(guess.outputs, problem, [0.5] * len(names))
    baseline = {"loss": guess.loss} | measured(guessed, references, guess.outputs)
    intervals = bootstrap(lambda rows: measured(said[rows], references[rows], scores.outputs[rows]), size)
    if "accuracy" in config.metrics:
        right = said == references
        intervals["accuracy"] = wilson(int((right.all(axis=1) if right.ndim == 2 else right).sum()), size)
    if interval := mean(scores.losses):
        intervals["loss"] = interval
    evidence: dict[str, Any] = {
        "baseline": {f"test_{name}": value for name, value in baseline.items()},
        "intervals": {f"test_{name}": interval for name, interval in intervals.items()},
    }
    return evidence | {"remarks": remarks(scores, said, references, training, config, names, **evidence)}


def remarks(
    scores: Scores,
    said: np.ndarray,
    references: np.ndarray,
    training: np.ndarray,
    config: ClassificationConfig,
    names: Sequence[str],
    baseline: dict[str, float],
    intervals: dict[str, Interval],
) -> list[str]:
    """What the scores hide: everything is one class, some classes are never predicted, a guess does as well."""
    problem = config.problem_type
    if problem == "regression":
        spread, wanted = float(np.std(scores.outputs)), float(np.std(references))
        if wanted and spread < 0.01 * wanted:
            value = float(np.mean(scores.outputs))
            return [f"every prediction is about {value:.4g}, while the labels spread by {wanted:.4g}; {MORE_TRAINING}"]
        return []
    advice = MORE_TRAINING
    if not (config.balance_classes or config.class_weights):
        advice = f"set balance_classes, {MORE_TRAINING}"
    several = problem == "multi_label_classification"
    predicted, wanted_of = (
        each.sum(axis=0) if several else np.bincount(each, minlength=len(names)) for each in (said, references)
    )
    missing = {
        name: int(count) for name, count, times in zip(names, wanted_of, predicted, strict=True) if count and not times
    }
    found = []
    if not several and (predicted > 0).sum() == 1 and len(said) > 1:
        only = names[int(predicted.argmax())]
        found.append(f"every prediction is {only!r}; {advice}")
    else:
        found += never_predicted("labels" if several else "rows", missing, int(wanted_of.sum()), help=advice)
    if "accuracy" in config.metrics:
        right = said == references
        results = {"test_accuracy": float((right.all(axis=1) if several else right).mean())}
        always = "always the labels that most training rows have"
        if not several:
            always = f"always {names[int(np.bincount(training, minlength=len(names)).argmax())]!r}"
        found += no_better("test_accuracy", results, baseline, intervals, guess=always, help=advice)
    return found
