"""What a reader should know of a tagging's scores: their intervals, a baseline, what is never predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from hftrain.metrics import FITTING, load_metrics
from hftrain.metrics.entities import Entities, entities
from hftrain.metrics.guesses import unigram_guess
from hftrain.metrics.intervals import bootstrap, ratio
from hftrain.report.scores import MORE_TRAINING, never_predicted, no_better
from hftrain.tasks.tagging.labels import find_scheme
from hftrain.tasks.tagging.scoring import Tagged

Tags = Sequence[Sequence[str]]


def judge(
    tagged: Sequence[Tagged], references: Tags, training: Tags, names: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    """`baseline`, `intervals` and `remarks` of the test rows, for `publish`. The baseline gives every word the tag that
    most words of the training rows have.

    Args:
        references, training: the reference tags of the test rows and of the training rows.
        names: the tags in the order of their numbers.
    """
    number = {name: place for place, name in enumerate(names)}
    predicted = [[names[tag] for tag in sentence.tags] for sentence in tagged]
    common = Counter(chain.from_iterable(training)).most_common(1)[0][0]
    guess = load_metrics([name for name in metrics if name in FITTING["token_classification"]], "token_classification")
    guess.add([[common] * len(tags) for tags in references], references)
    learnt, tested = ([{"labels": [number[tag] for tag in tags]} for tags in rows] for rows in (training, references))
    baseline = {key.removeprefix("overall_"): value for key, value in guess.compute().items()}
    baseline["loss"] = unigram_guess(learnt, tested, len(names))["loss"]

    plain = find_scheme(training) == "none"
    counted = np.array([_count(*pair, plain) for pair in zip(predicted, references, strict=True)])
    intervals = bootstrap(lambda rows: _scores(*counted[rows].sum(axis=0).tolist()), len(counted))
    if interval := ratio([sentence.loss for sentence in tagged], [sentence.labels for sentence in tagged]):
        intervals["loss"] = interval
    evidence: dict[str, Any] = {
        "baseline": {f"test_{name}": value for name, value in baseline.items()},
        "intervals": {f"test_{name}": interval for name, interval in intervals.items() if name in baseline},
    }
    more = remarks(predicted, references, plain)
    words = {"test_accuracy": _scores(*counted.sum(axis=0).tolist())["accuracy"]}
    return evidence | {"remarks": more + no_better("test_accuracy", words, **evidence, guess=f"always {common!r}")}


def remarks(predicted: Tags, references: Tags, plain: bool) -> list[str]:
    """What the scores hide: every word has one tag, no entity is predicted, some types are never predicted.

    Args:
        plain: the tags are not entities.
    """
    if plain:
        predicted_counts, reference_counts = (Counter(chain.from_iterable(rows)) for rows in (predicted, references))
        if len(predicted_counts) == 1 < len(reference_counts):
            return [f"every word is tagged {next(iter(predicted_counts))!r}; {MORE_TRAINING}"]
        return never_predicted("words", _missing(predicted_counts, reference_counts), reference_counts.total())
    state = Entities()
    state.add(predicted, references)
    predicted_counts, reference_counts = state.predicted, state.references
    if reference_counts and not predicted_counts:
        return [f"no entity is predicted; the test rows have {reference_counts.total():,}; {MORE_TRAINING}"]
    if reference_counts and not state.correct.total():
        return [f"none of the {predicted_counts.total():,} predicted entities is correct; {MORE_TRAINING}"]
    return never_predicted("entities", _missing(predicted_counts, reference_counts), reference_counts.total())


def _missing(predictions: Counter[str], references: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in references.items() if not predictions[name]}


def _count(predicted: Sequence[str], references: Sequence[str], plain: bool) -> tuple[int, ...]:
    """Counts of a sentence: correct, predicted and reference entities; correct words, words."""
    proposed, annotated = (set() if plain else set(entities(tags)) for tags in (predicted, references))
    words = sum(one == other for one, other in zip(predicted, references, strict=True))
    return len(proposed & annotated), len(proposed), len(annotated), words, len(references)


def _scores(correct: int, predicted: int, references: int, correct_words: int, words: int) -> dict[str, float]:
    """As `metrics.entities.seqeval` computes them."""
    return {
        "precision": correct / predicted if predicted else 0.0,
        "recall": correct / references if references else 0.0,
        "f1": 2 * correct / (predicted + references) if correct else 0.0,
        "accuracy": correct_words / max(1, words),
    }
