"""What a reader should know of the scores: their intervals, and a baseline that reads no question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain import text
from hftrain.data.examples import Examples
from hftrain.metrics.answers import score_v1, score_v2
from hftrain.metrics.intervals import bootstrap, mean, wilson
from hftrain.report.scores import MORE_TRAINING, no_better
from hftrain.tasks.answering.scoring import Found, best_answers

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

LOOKED_AT = 1000  # training questions that choose the baseline


def judge(
    rows: Mapping[str, Rows],
    examples: Mapping[str, Examples],
    predictions: Sequence[Found],
    metrics: Sequence[str],
    threshold: float,
) -> dict[str, Any]:
    """`baseline`, `intervals` and `remarks` of the test rows, for `publish`."""
    test = rows["test"]
    predicted, references = best_answers(predictions, test["context"], threshold), list(test["answers"])
    guess, guessed = guesses(rows["train"], test)
    baseline: dict[str, float] = {"loss": guessed_loss(examples["train"], examples["test"])}
    intervals: dict[str, Any] = {}
    results: dict[str, float] = {}
    if {"squad", "squad_v2"} & set(metrics):
        score, exact = (score_v1, "exact_match") if "squad" in metrics else (score_v2, "exact")
        scored, rival = (
            np.array([score(*pair) for pair in zip(texts, references, strict=True)]) for texts in (predicted, guessed)
        )
        answered = np.array([bool(answers) for answers in references])

        def measured(pairs: np.ndarray, answered: np.ndarray) -> dict[str, float]:
            parts = {"": np.ones_like(answered)}
            parts |= {"HasAns_": answered, "NoAns_": ~answered} if exact == "exact" else {}
            means = {prefix: 100 * pairs[part].mean(axis=0) for prefix, part in parts.items() if part.any()}
            return {
                f"{prefix}{name}": float(mean[i])
                for prefix, mean in means.items()
                for i, name in ((0, exact), (1, "f1"))
            }

        baseline |= measured(rival, answered)
        intervals = bootstrap(lambda rows: measured(scored[rows], answered[rows]), len(scored))
        low, high = wilson(scored[:, 0].sum(), len(scored))
        intervals[exact] = 100 * low, 100 * high
        results = {f"test_{name}": value for name, value in measured(scored, answered).items()}
    if interval := mean([prediction.loss for prediction in predictions]):
        labels = 2 * len(examples["test"]) / len(predictions)  # the loss is a mean over the two labels of each window
        intervals["loss"] = interval[0] / labels, interval[1] / labels
    evidence: dict[str, Any] = {
        "baseline": {f"test_{name}": value for name, value in baseline.items()},
        "intervals": {f"test_{name}": interval for name, interval in intervals.items()},
    }
    remarks = [f"every question is left open; {MORE_TRAINING}"] if len(predicted) > 1 and not any(predicted) else []
    return evidence | {
        "remarks": remarks + no_better("test_f1", results, **evidence, guess=guess, task="question-answering")
    }


def guesses(training: Rows, rows: Rows) -> tuple[str, list[str]]:
    """The better of two baselines by the F1 of training questions: no answer, or the first words of the text, as many
    as the median answer has. Returns its description and its answers to `rows`."""
    few = training.select(range(min(LOOKED_AT, len(training))))
    sizes = [len(answer.split()) for answers in few["answers"] for answer in answers[:1]]
    size = max(1, int(np.median(sizes))) if sizes else 1
    ways: dict[str, Callable[[str], str]] = {
        f"always the first {size} words of the text": lambda context: " ".join(context.split()[:size]),
        "leaving every question open": lambda context: "",
    }

    def f1(name: str) -> float:
        return sum(score_v2(ways[name](row["context"]), row["answers"])[1] for row in few)

    best = max(ways, key=f1)
    return best, [ways[best](context) for context in rows["context"]]


def guessed_loss(training: Examples, held_out: Examples) -> float:
    """The mean loss of a label if windows lack an answer as often as in training, and otherwise every token of the
    context is equally likely to begin or end the answer."""
    first_labels = (np.array(examples.column("labels"))[:, 0] for examples in (training, held_out))
    absent, there = (
        labels == np.array(examples.column("null"))
        for labels, examples in zip(first_labels, (training, held_out), strict=True)
    )
    share = np.clip(absent.mean(), 0.5 / len(absent), 1 - 0.5 / len(absent))
    tokens = np.maximum(1, text.list_lengths(held_out.items, ["offsets"])[:, 0] // 2)
    return float(np.where(there, -np.log(share), np.log(tokens) - np.log1p(-share)).mean())
