"""What a reader should know of a classification's scores: intervals, the scores of a constant guess, classes that are
never predicted. Shapes: N examples, K classes or labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hftrain.labels.classes import relative_weights
from hftrain.labels.config import LabelConfig
from hftrain.labels.scoring import Scores, constant_guess, decide
from hftrain.metrics import FITTING, load_metrics
from hftrain.metrics.intervals import bootstrap, mean, wilson
from hftrain.report.scores import MORE_TRAINING, listed, never_predicted, no_better


def judge(
    scores: Scores,
    references: np.ndarray,
    training: np.ndarray,
    config: LabelConfig,
    names: Sequence[str],
    thresholds: Sequence[float] = (),
) -> dict[str, Any]:
    """`baseline`, `intervals` and `remarks` of the test rows, for `publish`.

    Args:
        references, training: the references of the test rows and of the training rows.
    """
    problem, size = config.problem_type, len(references)
    predictions = decide(scores.outputs, problem, thresholds)

    ours = [name for name in config.metrics if name in FITTING[problem]]  # other metrics may be slow

    def measured(predicted: np.ndarray, truth: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        metrics = load_metrics(ours, problem, labels=names)
        metrics.add(predicted, truth, outputs)
        return metrics.compute_defined()

    guess = constant_guess(training, references, problem, len(names))
    guessed = decide(guess.outputs, problem, [0.5] * len(names))
    baseline = {"loss": guess.loss} | measured(guessed, references, guess.outputs)
    weights = None
    if problem != "regression":
        weights = relative_weights(count(training, names), len(training), names, config)
    if weights is not None:  # the model has learnt other frequencies than those of the rows
        baseline["loss"] = constant_guess(training, references, problem, len(names), weights).loss
    if problem == "multi_label_classification":  # predicting every label has the best F1 without reading the input
        every = measured(np.ones_like(references), references, guess.outputs)
        baseline |= {name: max(baseline[name], value) for name, value in every.items() if name.startswith("f1")}
    intervals = bootstrap(lambda rows: measured(predictions[rows], references[rows], scores.outputs[rows]), size)
    if "accuracy" in config.metrics:
        correct = predictions == references
        intervals["accuracy"] = wilson(int((correct.all(axis=1) if correct.ndim == 2 else correct).sum()), size)
    if interval := mean(scores.losses):
        intervals["loss"] = interval
    evidence: dict[str, Any] = {
        "baseline": {f"test_{name}": value for name, value in baseline.items()},
        "intervals": {f"test_{name}": interval for name, interval in intervals.items()},
    }
    advice = MORE_TRAINING
    if problem != "regression" and not (config.balance_classes or config.class_weights):
        advice = f"set balance_classes, {MORE_TRAINING}"
    results = {f"test_{name}": value for name, value in measured(predictions, references, scores.outputs).items()}
    headline = "accuracy" if "accuracy" in config.metrics else config.metrics[0]
    if weights is not None and "f1_macro" in config.metrics:  # rare classes are to count, at the cost of accuracy
        headline = "f1_macro"
    always = "a constant guess"
    if problem == "single_label_classification":
        always = f"always {names[int(np.bincount(training, minlength=len(names)).argmax())]!r}"
    return evidence | {
        "remarks": [
            *absent(training, references, names, problem),
            *remarks(predictions, references, names, problem, advice),
            *no_better(f"test_{headline}", results, **evidence, guess=always, help=advice),
        ]
    }


def absent(training: np.ndarray, references: np.ndarray, names: Sequence[str], problem: str) -> list[str]:
    """Classes that training rows have and no test row has: the scores do not show whether they are found."""
    if problem == "regression":
        return []
    learnt, asked = (count(values, names) for values in (training, references))
    missing = [
        f"{name!r} ({rows:,} training rows)"
        for name, rows, there in zip(names, learnt, asked, strict=True)
        if rows and not there
    ]
    kind = "no test row has" if problem == "multi_label_classification" else "no test row is"
    return [f"{kind} {listed(missing)}: the scores do not show whether the model finds it"] if missing else []


def count(values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(K,) how often each class or label is there, of (N,) classes or (N, K) labels."""
    return values.sum(axis=0) if values.ndim == 2 else np.bincount(values, minlength=len(names))


def remarks(
    predictions: np.ndarray, references: np.ndarray, names: Sequence[str], problem: str, advice: str
) -> list[str]:
    """What the scores hide: all predictions are one class or about one number, some classes are never predicted."""
    if problem == "regression":
        spread, wanted = float(np.std(predictions)), float(np.std(references))
        if spread >= 0.01 * wanted:
            return []
        return [
            f"every prediction is about {np.mean(predictions):.4g}, but the labels spread by {wanted:.4g}; {advice}"
        ]
    several = problem == "multi_label_classification"
    predicted, wanted_of = (count(values, names) for values in (predictions, references))
    missing = {
        name: int(count) for name, count, times in zip(names, wanted_of, predicted, strict=True) if count and not times
    }
    if not several and (predicted > 0).sum() == 1 < (wanted_of > 0).sum():
        return [f"every prediction is {names[int(predicted.argmax())]!r}; {advice}"]
    return never_predicted("labels" if several else "rows", missing, int(wanted_of.sum()), help=advice)
