"""Scores for people: their 95 % intervals, a comparison with a guess that reads no input, and a remark if nothing was
learnt."""

from collections.abc import Mapping, Sequence
from typing import Any

from hftrain.metrics.table import TABLE, higher_is_better, metric_of
from hftrain.report.formats import format_number

IN_PERCENT = ("question-answering",)  # tasks whose scores are percentages, as in the scripts of SQuAD
NOISE = 0.02  # relative noise of a loss without an interval
LISTED = 8  # maximum names in a sentence
MORE_TRAINING = "train for more epochs (num_train_epochs), or raise learning_rate"

Interval = tuple[float, float]


def format_score(metric: str, value: object, interval: Sequence[float] | None = None, task: str = "") -> str:
    """A share as "89.0 % (86.0-91.5)", another number as "36.12 (34.5-37.8)"; without an interval only the number.

    Args:
        metric: without "test_" or "eval_".
        task: pipeline tag of the Hub.
    """
    share, percent = metric_of(metric).unit == "share", in_percent(metric, task)
    if not (share or percent) or not isinstance(value, int | float):
        around = "" if interval is None else f" ({_between([format_number(end) for end in interval])})"
        return format_number(value) + around
    factor = 1 if percent else 100
    around = "" if interval is None else f" ({_between([f'{factor * end:.1f}' for end in interval])})"
    return f"{factor * value:.1f} %{around}"


def in_percent(metric: str, task: str) -> bool:
    """Whether the value of a score is a percentage already."""
    return higher_is_better(metric) is not False and task in IN_PERCENT and not metric.endswith("threshold")


def bounds(metric: str, task: str = "") -> tuple[float, float]:
    """The lowest and the highest value that a score can have."""
    return (0.0, 100.0) if in_percent(metric, task) else metric_of(metric).bounds


def _between(ends: Sequence[str]) -> str:
    """Two numbers with a dash, or with "to" if a minus sign would hide the dash."""
    return (" to " if any("-" in end for end in ends) else "-").join(ends)


def not_learnt(
    loss: float, guess: float, interval: Sequence[float] | None = None, *, whose: str = "a constant guess has"
) -> str:
    """A remark if `loss` is not below `guess` by more than noise (its interval, or 2 % without one), else "".

    Args:
        whose: "a constant guess has", "before training it was": the words before `guess` in the sentence.
    """
    rival = f"{whose} {format_number(guess)}"
    if loss >= guess * (1 - NOISE):
        return f"the model has not learnt: loss {format_number(loss)}, {rival}; {MORE_TRAINING}"
    if interval is not None and interval[1] >= guess:
        shown = format_score("loss", loss, interval)
        return f"it is not certain that the model has learnt: loss {shown}, {rival}; use more test rows"
    return ""


def beats(metric: str, value: float, guess: float, interval: Sequence[float] | None = None) -> bool:
    """Whether a score is better than the guess's by more than noise: its interval, or 2 % without one."""
    if higher_is_better(metric) is False:
        return (value * (1 + NOISE) if interval is None else interval[1]) < guess
    return (value - NOISE * abs(value) if interval is None else interval[0]) > guess


def no_better(
    metric: str,
    results: Mapping[str, Any],
    baseline: Mapping[str, float],
    intervals: Mapping[str, Interval],
    *,
    task: str = "",
    guess: str = "a constant guess",
    help: str = MORE_TRAINING,
) -> list[str]:
    """A remark if a score of `results` is not better than a guess's, or not certainly.

    Args:
        guess: a description of the guess behind `baseline`, such as "always 'yes'".
        help: advice, such as the settings that help.
    """
    value, rival = results.get(metric), baseline.get(metric)
    name = metric.partition("_")[2]
    if value is None or rival is None or beats(name, value, rival, intervals.get(metric)):
        return []
    if rival >= bounds(name, task)[1]:
        return [f"{name} shows nothing on these test rows: {guess} has {format_score(name, rival, None, task)} too"]
    better = beats(name, value, rival)
    verb, way_out = ("is not certainly", "use more test rows") if better else ("is no", help)
    shown, guessed = format_score(name, value, intervals.get(metric), task), format_score(name, rival, None, task)
    return [f"{name} {shown} {verb} better than {guess}, which has {guessed}; {way_out}"]


def nothing_found(metric: str, scores: Mapping[str, Any], intervals: Mapping[str, Interval]) -> dict[str, Any]:
    """`baseline`, `intervals` and `remarks` of a score that is 0 if nothing is found."""
    evidence: dict[str, Any] = {
        "baseline": {f"test_{metric}": 0.0},
        "intervals": {f"test_{name}": interval for name, interval in intervals.items()},
    }
    results = {f"test_{metric}": scores.get(metric)}
    return evidence | {"remarks": no_better(f"test_{metric}", results, **evidence, guess="finding nothing")}


def never_predicted(kind: str, missing: Mapping[str, int], total: int, *, help: str = MORE_TRAINING) -> list[str]:
    """A remark on classes (`kind`) that are never predicted, though test rows have them.

    Args:
        missing: class -> occurrences in the references.
        total: occurrences of all classes.
    """
    if not missing:
        return []
    names = [f"{name!r} ({count:,})" for name, count in sorted(missing.items(), key=lambda item: -item[1])]
    return [f"never predicted: {listed(names)} (of {total:,} {kind} in the test rows); {help}"]


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def verdict(
    results: Mapping[str, Any],
    baseline: Mapping[str, float],
    intervals: Mapping[str, Interval],
    start: Mapping[str, Any],
) -> list[str]:
    """A remark if a run has learnt nothing, by its test loss, or else by its validation loss.

    A model whose loss is above the guess's, but whose scores beat the guess's, is accurate and overconfident: it has
    learnt.

    Args:
        start: metrics ("eval_*") of the model before training, if they are known.
    """
    key = next((key for key in ("test_loss", "eval_loss") if key in baseline and _number(results.get(key))), None)
    sentence = not_learnt(results[key], baseline[key], intervals.get(key)) if key else ""
    if sentence and not _any_beats(results, baseline, intervals):
        return [sentence]
    before: Any = start.get("eval_loss")
    after: Any = results.get("eval_loss")
    if _number(before) and _number(after):
        evaluated = {name: value for name, value in start.items() if name.startswith("eval_") and _number(value)}
        sentence = not_learnt(after, before, whose="before training it was")
        return [sentence] if sentence and not _any_beats(results, evaluated, {}) else []
    return []


def _any_beats(results: Mapping[str, Any], rivals: Mapping[str, float], intervals: Mapping[str, Interval]) -> bool:
    """Whether one of `results`, except the loss, is better than its rival. If some metrics are fair (chance cannot win
    them), only they count: random predictions have a better F1 than a constant prediction of the other class."""
    scores = {name: name.partition("_")[2] for name in rivals if _number(results.get(name))}
    scores = {name: metric for name, metric in scores.items() if higher_is_better(metric) is not False}
    fair = {name: metric for name, metric in scores.items() if metric in TABLE and TABLE[metric].fair} or scores
    return any(beats(metric, results[name], rivals[name], intervals.get(name)) for name, metric in fair.items())


def _number(value: object) -> bool:
    return isinstance(value, int | float)
