"""The metrics of a task, batch by batch: a batch updates small states; states of batches and processes are merged.

    metrics = load_metrics(["accuracy", "f1", "roc_auc"], "single_label_classification", labels=["no", "yes"])
    for ...:
        metrics.add(predictions, references, scores)
    metrics.gather(accelerate.utils.gather_object)
    metrics.compute()  # {"accuracy": 0.93, "f1": 0.91, "roc_auc": 0.97}

States are counts and sums, for any number of examples. Metrics that need every example store a part of each: its scores
(ROC-AUC, average precision), a pair of numbers (Spearman), five numbers per answer (SQuAD), and the unchanged
predictions for a metric that is not ours. Logits are never stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hftrain.metrics import answers, calibration, checks, counts, entities, ranking, regression
from hftrain.metrics.checks import Values
from hftrain.metrics.table import AVERAGES, TABLE, belongs, check_names

CURVES_OF = 50  # maximum classes; for more, the report stores no scores


class Measure(NamedTuple):
    """The key of a state, and a function from the state to a number or {name: number}."""

    state: str
    compute: Callable[[Any], Any]


@dataclass
class TokenCounts(counts.Counts):
    """`Counts` of the tags of all tokens."""

    def add(self, predictions: Values, references: Values, scores: Values | None = None) -> None:
        super().add(list(chain.from_iterable(predictions)), list(chain.from_iterable(references)))


@dataclass
class Collected:
    """Unchanged predictions and references, for a metric that is not ours."""

    predictions: list[Any] = field(default_factory=list)
    references: list[Any] = field(default_factory=list)

    def add(self, predictions: Iterable[Any], references: Iterable[Any], scores: Values | None = None) -> None:
        self.predictions += np.asarray(predictions).tolist() if hasattr(predictions, "shape") else predictions
        self.references += np.asarray(references).tolist() if hasattr(references, "shape") else references

    def merge(self, other: Collected) -> None:
        self.predictions += other.predictions
        self.references += other.references


@dataclass
class Metrics:
    """The metrics of `load_metrics`. Measures that read the same state share it.

    Attributes:
        labels: names of the classes, in the order of their numbers; () if the task has no classes.
        states: "counts", "scores", "bins", ...: filled by the batches; the report reads them too.
    """

    task: str
    labels: Sequence[str]
    measures: Mapping[str, Measure]
    states: dict[str, Any]

    def add(self, predictions: Values, references: Values, scores: Values | None = None) -> None:
        """Adds a batch of N examples, as arrays (on the CPU) or lists:

        - single_label_classification: classes (N,) and (N,), scores: probabilities (N, K).
        - multi_label_classification: 0 or 1 (N, L) and (N, L), scores: probabilities (N, L).
        - regression: numbers (N,) and (N,).
        - token_classification: N lists of tags, a tag for each word.
        - question_answering: N answers ("" for no answer), N lists of reference answers; scores (N,): of no answer.

        Raises:
            ValueError: lengths or shapes do not fit, a number is NaN, or needed scores are missing.
        """
        if scores is not None:
            checks.numbers("scores", scores)  # argmax of NaN would be the first class
        for state in self.states.values():
            state.add(predictions, references, scores)

    def merge(self, other: Metrics) -> None:
        """Adds the states of another one with the same metrics."""
        for key, state in self.states.items():
            state.merge(other.states[key])

    def gather(self, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Gives every process the states of all. Call it once, with `accelerate.utils.gather_object`."""
        first, *other_states = gather([self.states])
        self.states = first
        for states in other_states:
            self.merge(Metrics(self.task, self.labels, self.measures, states))

    def compute(self) -> dict[str, float]:
        """Name -> value, in the given order; a metric with several numbers has a name for each.

        Raises:
            ValueError: nothing was added; a metric is not defined for these references (ROC-AUC of one class).
        """
        results: dict[str, float] = {}
        for name, measure in self.measures.items():
            value = measure.compute(self.states[measure.state])
            results |= value if isinstance(value, dict) else {name: value}
        return results

    def compute_defined(self) -> dict[str, float]:
        """As `compute`, without the metrics that are not defined for these references."""
        results: dict[str, float] = {}
        for name, measure in self.measures.items():
            with suppress(ValueError):
                results |= Metrics(self.task, self.labels, {name: measure}, self.states).compute()
        return {name: value for name, value in results.items() if math.isfinite(value)}

    def rehearse(self, references: Values) -> dict[str, float]:
        """Raises, before training, the errors that `compute` would raise for these references with any predictions.

        Returns:
            the results of correct predictions by our own metrics.
        """
        ours = {name: measure for name, measure in self.measures.items() if measure.state != name}
        states = {key: deepcopy(self.states[key]) for key in {measure.state for measure in ours.values()}}
        rehearsal = Metrics(self.task, self.labels, ours, states)
        answered = self.task == "question_answering"
        scores = np.full((len(references), len(self.labels)), 1 / len(self.labels)) if self.labels else None
        rehearsal.add([""] * len(references) if answered else references, references, scores)
        return rehearsal.compute()


def load_metrics(
    names: Sequence[str], task: str, *, labels: Sequence[str] = (), scheme: str | None = None, report: bool = False
) -> Metrics:
    """The metrics of these names: ours (`FITTING`), or else what `evaluate.load` finds.

    `precision`, `recall` and `f1` alone are for the second of two classes, or the macro mean of more classes and of
    labels; `roc_auc` and `average_precision` alone are the macro mean. `_macro`, `_micro`, `_weighted` choose the mean;
    `_per_class` gives each class ("f1_<label>").

    Args:
        task: a key of `FITTING`.
        labels: names of the classes, in the order of their numbers.
        scheme: scheme of the tags: IOB2 or IOBES count strictly, None like conlleval.
        report: also collect what `hftrain.report` draws, for any names: confusions, calibration, scores.

    Raises:
        ValueError: one of our metrics does not fit the task, or another metric cannot be loaded.
    """
    check_names(names, task)
    several = task == "multi_label_classification"
    states: dict[str, Any] = {
        "counts": counts.LabelCounts() if several else counts.Counts(),
        "scores": ranking.Scores(labels),
        "bins": calibration.Bins(),
        "moments": regression.Moments(),
        "pairs": regression.Pairs(),
        "tokens": TokenCounts(),
        "entities": entities.Entities(scheme),
        "answers": answers.Answers(answers.score_v1),
        "answers_v2": answers.Answers(answers.score_v2),
    }
    fitting = _measures(task, labels)
    measures: dict[str, Measure] = {}
    for name in names:
        if name in fitting:
            measures[name] = fitting[name]
        else:
            states[name] = Collected()
            measures[name] = _foreign(name)
    used = {measure.state for measure in measures.values()}
    if report and task.endswith("label_classification"):
        used |= {"counts", "bins", "scores"} if len(labels) <= CURVES_OF else {"counts", "bins"}
    return Metrics(task, labels, measures, {key: state for key, state in states.items() if key in used})


def rehearse(
    names: Sequence[str],
    task: str,
    references: Mapping[str, Any],
    *,
    labels: Sequence[str] = (),
    best: str | None = None,
) -> str:
    """Raises, before training, errors that would otherwise come after hours; returns the metric of the best model.

    Args:
        names, task, labels: as for `load_metrics`.
        references: the references of each split that will be evaluated, as for `Metrics.add`.
        best: metric_for_best_model; None: the F1 of entities and answers if it is there, else the first metric.

    Raises:
        ValueError: a metric cannot be loaded, or is not defined for the references of a split; or `best` is not
            evaluated.
    """
    results = {"loss": 0.0}
    for split, rows in references.items():
        metrics = load_metrics(names, task, labels=labels)
        try:
            results |= metrics.rehearse(rows)
        except ValueError as error:
            raise ValueError(f"metrics of the {split} rows: {error}") from error
    if best is None:
        scores = [name.removeprefix("overall_") for name in results if name != "loss"]
        best = "f1" if "f1" in scores and task in ("token_classification", "question_answering") else scores[0]
    best = best.removeprefix("eval_")
    foreign = [Path(name).stem for name, measure in metrics.measures.items() if measure.state == name]
    if not {best, f"overall_{best}"} & results.keys() and not any(belongs(best, name) for name in foreign):
        names_shown = ", ".join([*(name.removeprefix("overall_") for name in results), *foreign])
        raise ValueError(f"metric_for_best_model={best!r} is not evaluated; the metrics are {names_shown} (metrics)")
    return best


def _measures(task: str, labels: Sequence[str]) -> dict[str, Measure]:
    """Name -> measure, for the metrics of the table that fit the task."""
    measures: dict[str, Measure] = {}
    for name, metric in TABLE.items():
        if task not in metric.tasks:
            continue
        function = metric.load()
        state = "tokens" if (task, metric.state) == ("token_classification", "counts") else metric.state
        if not metric.averaged:
            measures[name] = Measure(state, function)
            continue
        binary = state == "counts" and task == "single_label_classification" and len(labels) == 2
        measures[name] = Measure(state, partial(function, average="binary" if binary else "macro"))
        for average in AVERAGES[:-1]:
            measures[f"{name}_{average}"] = Measure(state, partial(function, average=average))
        measures[f"{name}_per_class"] = Measure(state, partial(_per_class, name, function, labels))
    return measures


def _per_class(name: str, function: Callable[..., Any], labels: Sequence[str], state: Any) -> dict[str, float]:
    chosen = {} if isinstance(state, ranking.Scores) else {"labels": range(len(labels))}
    values = np.atleast_1d(function(state, average=None, **chosen))
    shown = labels if len(values) == len(labels) else labels[1:]  # for two classes, the second is ranked
    return {f"{name}_{label}": float(value) for label, value in zip(shown, values, strict=True)}


def _foreign(name: str) -> Measure:
    from hftrain.metrics import load_metric

    metric, short = load_metric(name), Path(name).stem

    def compute(state: Collected) -> dict[str, float]:
        result = metric.compute(predictions=state.predictions, references=state.references) or {}
        numbers = {key: float(value) for key, value in result.items() if isinstance(value, Real)}
        if not numbers:
            raise ValueError(f"metric {name!r} returns no number, only {', '.join(result) or 'nothing'}")
        alone = len(numbers) == 1
        return {short if alone else f"{short}_{key}": value for key, value in numbers.items()}

    return Measure(name, compute)
