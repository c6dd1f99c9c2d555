"""Predictions of answers: the best spans of a context, whether it has an answer, scores.

Shapes: B windows of a batch, T tokens of a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from torch import nn

from hftrain.data.examples import Examples
from hftrain.losses import Batch, Collate
from hftrain.metrics import answers as squad
from hftrain.metrics import checks, load_metrics
from hftrain.tasks.answering.config import AnswerConfig
from hftrain.tasks.answering.losses import log_probabilities, span_losses
from hftrain.train import evaluation
from hftrain.train.choosing import choose_best_metric

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


class Span(NamedTuple):
    """A part of the context, in characters, and the sum of the log probabilities of its ends in its window."""

    start: int
    end: int
    score: float


class Found(NamedTuple):
    """The predictions for a window, or for all windows of a question."""

    spans: list[Span]  # the best first
    null: float  # the score of no answer, on the same scale
    loss: float = 0.0


def choose_metrics(config: AnswerConfig, rows: Mapping[str, Rows]) -> list[str]:
    """The metrics that `config` names, else squad, or squad_v2 where a question has no answer; tried on the held-out
    answers before any training (`choose_best_metric`)."""
    metrics = config.metrics or ["squad" if all(all(split["answers"]) for split in rows.values()) else "squad_v2"]
    choose_best_metric(config, "question_answering", metrics, {name: rows[name]["answers"] for name in rows})
    return metrics


def find_spans(
    model: nn.Module, batch: Batch, *, n_best_size: int, max_answer_length: int
) -> list[tuple[np.ndarray, float, float]]:
    """For each window: the best spans (n, 3) as first and last token and score; the score of no answer; the loss."""
    first, last = log_probabilities(model, batch)
    losses = span_losses(first, last, batch["labels"]).tolist()
    null = (first.gather(1, batch["null"][:, None]) + last.gather(1, batch["null"][:, None])).squeeze(1).tolist()
    context = batch["context"].bool()
    few = min(n_best_size, context.shape[1])
    ends = [scores.masked_fill(~context, -math.inf).topk(few, dim=1) for scores in (first, last)]
    (first_scores, firsts), (last_scores, lasts) = (tuple(part.cpu().numpy() for part in end) for end in ends)
    results = []
    for row in range(len(first)):
        scores = first_scores[row][:, None] + last_scores[row]
        lengths = lasts[row] - firsts[row][:, None] + 1
        a, b = np.nonzero((lengths > 0) & (lengths <= max_answer_length) & np.isfinite(scores))
        spans = np.stack([firsts[row][a], lasts[row][b], scores[a, b]], axis=1)
        results.append((spans[np.argsort(-spans[:, 2], kind="stable")[:n_best_size]], null[row], losses[row]))
    return results


def join(
    examples: Iterable[Mapping[str, Any]], windows: Iterable[tuple[np.ndarray, float, float]], n_best_size: int
) -> list[Found]:
    """Joins windows, in order, to questions; part 0 begins a question. A question has no answer if no window has one:
    its null score is the lowest of its windows. A span in two windows keeps the better score, and so do two spans that
    differ only by blanks at their ends."""
    joined: list[Found] = []
    for example, (spans, null, loss) in zip(examples, windows, strict=True):
        best: dict[tuple[int, int], float] = {}
        if example["part"]:
            before = joined.pop()
            best = {(span.start, span.end): span.score for span in before.spans}
            null, loss = min(null, before.null), loss + before.loss
        starts, ends = example["offsets"][::2], example["offsets"][1::2]
        for first, last, score in spans.tolist():
            place = starts[int(first) - example["begin"]], ends[int(last) - example["begin"]]
            if place[0] >= place[1]:
                continue  # only blanks
            best[place] = max(score, best.get(place, -math.inf))
        ranked = sorted((Span(*place, score) for place, score in best.items()), key=lambda span: -span.score)
        joined.append(Found(ranked[:n_best_size], null, loss))
    return joined


class Search(Protocol):
    """The settings that `answer` reads."""

    eval_batch_size: int
    n_best_size: int
    max_answer_length: int


def answer(
    accelerator: evaluation.Processes,
    model: nn.Module,
    examples: Examples,
    config: Search,
    collate: Collate,
) -> list[Found]:
    """The model's predictions for each question, in order, on every process."""
    windows = evaluation.predict(
        accelerator,
        examples,
        config.eval_batch_size,
        collate=collate,
        generate=partial(find_spans, model, n_best_size=config.n_best_size, max_answer_length=config.max_answer_length),
        by_tokens=True,
    )
    return join(examples, windows, config.n_best_size)


def probabilities(prediction: Found) -> tuple[list[float], float]:
    """The probabilities of each span and of no answer: the softmax of their scores."""
    scores = np.array([prediction.null, *(span.score for span in prediction.spans)])
    shares = np.exp(scores - scores.max())
    none, *spans = (shares / shares.sum()).tolist()
    return spans, none


def is_answered(prediction: Found, threshold: float) -> bool:
    """Whether a question gets an answer: not if no answer is more probable than `threshold`."""
    return bool(prediction.spans) and probabilities(prediction)[1] <= threshold


def best_answers(predictions: Sequence[Found], contexts: Sequence[str], threshold: float = 1.0) -> list[str]:
    """The text of each question's best span; "" where no answer is more probable than `threshold`."""
    return [
        context[prediction.spans[0].start : prediction.spans[0].end] if is_answered(prediction, threshold) else ""
        for prediction, context in zip(predictions, contexts, strict=True)
    ]


def choose_threshold(predictions: Sequence[Found], rows: Rows) -> float:
    """The threshold on the probability of no answer that gives the best F1 on `rows`: the middle between the two
    questions that it separates; 1 (always answer) if every question has an answer."""
    if all(rows["answers"]):
        return 1.0
    state, none = squad.Answers(squad.score_v2), [probabilities(prediction)[1] for prediction in predictions]
    state.add(best_answers(predictions, rows["context"]), list(rows["answers"]), none)
    best = squad.squad_v2(state)["best_f1_thresh"]
    return (best + min((probability for probability in none if probability > best), default=1.0)) / 2


def score(
    predictions: Sequence[Found], rows: Rows, windows: int, metrics: Sequence[str], threshold: float | None = None
) -> dict[str, float]:
    """{"loss", each metric: value}; a question that the threshold leaves open counts as unanswered.

    Args:
        windows: number of windows of the rows; each has two labels.
        threshold: None: the best for these rows, which must be validation rows; the scores then have it as
            "no_answer_threshold", if some rows have no answer.
    """
    checks.numbers("losses", [prediction.loss for prediction in predictions])
    chosen = choose_threshold(predictions, rows) if threshold is None else threshold
    measured = load_metrics(metrics, "question_answering")
    measured.add(best_answers(predictions, rows["context"], chosen), list(rows["answers"]))
    scores = {"loss": sum(prediction.loss for prediction in predictions) / (2 * windows)}
    # Scores at other thresholds are not results, and numbers of rows are not scores.
    values = measured.compute().items()
    scores |= {name: value for name, value in values if not (name.startswith("best_") or name.endswith("total"))}
    return scores if threshold is not None or all(rows["answers"]) else scores | {"no_answer_threshold": chosen}
