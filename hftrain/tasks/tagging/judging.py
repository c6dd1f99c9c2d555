"""How good the scores of a tagging are: their intervals, a constant guess's scores, what is never predicted."""

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
    found: Sequence[Tagged], references: Tags, training: Tags, names: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    """`baseline`, `intervals` and `remarks` of the test rows, for `publish`. The guess is, for each word, the tag that
    most words of the training rows have.

    Args:
        references, training: the right tags of the test rows and of the training rows.
        names: of the tags, in the order of their numbers.
    """
    number = {name: place for place, name in enumerate(names)}
    predicted = [[names[tag] for tag in each.tags] for each in found]
    common = Counter(chain.from_iterable(training)).most_common(1)[0][0]
    guess = load_metrics([name for name in metrics if name in FITTING["token_classification"]], "token_classification")
    guess.add([[common] * len(tags) for tags in references], references)
    learnt, held = ([{"labels": [number[tag] for tag in tags]} for tags in rows] for rows in (training, references))
    baseline = {key.removeprefix("overall_"): value for key, value in guess.compute().items()}
    baseline["loss"] = unigram_guess(learnt, held, len(names))["loss"]

    plain = find_scheme(training) == "none"
    counted = np.array([_count(*pair, plain) for pair in zip(predicted, references, strict=True)])
    intervals = bootstrap(lambda rows: _scores(*counted[rows].sum(axis=0).tolist()), len(counted))
    if interval := ratio([each.loss for each in found], [each.labels for each in found]):
        intervals["loss"] = interval
    evidence: dict[str, Any] = {
        "baseline": {f"test_{name}": value for name, value in baseline.items()},
        "intervals": {f"test_{name}": interval for name, interval in intervals.items() if name in baseline},
    }
    more = remarks(predicted, references, plain)
    words = {"test_accuracy": _scores(*counted.sum(axis=0).tolist())["accuracy"]}
    return evidence | {"remarks": more + no_better("test_accuracy", words, **evidence, guess=f"always {common!r}")}


def remarks(predicted: Tags, references: Tags, plain: bool) -> list[str]:
    """What the scores hide: every word has one tag, no entity is found, some types are never predicted.

    Args:
        plain: tags are no parts of entities.
    """
    if plain:
        said, right = (Counter(chain.from_iterable(rows)) for rows in (predicted, references))
        if len(said) == 1 < len(right):
            return [f"every word is tagged {next(iter(said))!r}; {MORE_TRAINING}"]
        return never_predicted("words", _missing(said, right), right.total())
    state = Entities()
    state.add(predicted, references)
    said, right = state.predicted, state.references
    if right and not said:
        return [f"no entity is predicted, of {right.total():,} in the test rows; {MORE_TRAINING}"]
    if right and not state.right.total():
        return [f"none of {said.total():,} predicted entities is right; {MORE_TRAINING}"]
    return never_predicted("entities", _missing(said, right), right.total())


def _missing(said: Counter[str], right: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in right.items() if not said[name]}


def _count(predicted: Sequence[str], right: Sequence[str], plain: bool) -> tuple[int, ...]:
    """Of a sentence: entities that are right, predicted, in the reference; words that are right, words."""
    found, wanted = (set() if plain else set(entities(tags)) for tags in (predicted, right))
    words = sum(one == other for one, other in zip(predicted, right, strict=True))
    return len(found & wanted), len(found), len(wanted), words, len(right)


def _scores(right: int, predicted: int, references: int, words_right: int, words: int) -> dict[str, float]:
    """As `metrics.entities.seqeval` has them."""
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / references if references else 0.0,
        "f1": 2 * right / (predicted + references) if right else 0.0,
        "accuracy": words_right / max(1, words),
    }
