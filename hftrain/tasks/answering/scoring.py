"""What a model finds: the best spans of a context, whether there is an answer, scores.

Shapes: B windows of a batch, T tokens of a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from accelerate import Accelerator
from torch import nn

from hftrain.data.examples import Examples
from hftrain.losses import Batch
from hftrain.metrics import answers as squad
from hftrain.metrics import checks, load_metrics
from hftrain.tasks.answering.config import AnswerConfig
from hftrain.tasks.answering.losses import log_probabilities, span_losses
from hftrain.train import evaluation
from hftrain.train.choosing import choose_best_metric

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


class Span(NamedTuple):
    """A part of the context, in characters, and the log probabilities of its ends, added (of its window alone)."""

    start: int
    end: int
    score: float


class Found(NamedTuple):
    """What a model finds in a window, or in all windows of a question."""

    spans: list[Span]  # the best first
    null: float  # the score of there being no answer, of the same scale
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
    """Of each window the best spans (n, 3): first and last token, score; the score of no answer; the loss."""
    first, last = log_probabilities(model, batch)
    losses = span_losses(first, last, batch["labels"]).tolist()
    null = (first.gather(1, batch["null"][:, None]) + last.gather(1, batch["null"][:, None])).squeeze(1).tolist()
    context = batch["context"].bool()
    few = min(n_best_size, context.shape[1])
    ends = [scores.masked_fill(~context, -math.inf).topk(few, dim=1) for scores in (first, last)]
    (first_scores, firsts), (last_scores, lasts) = (tuple(part.cpu().numpy() for part in end) for end in ends)
    found = []
    for row in range(len(first)):
        scores = first_scores[row][:, None] + last_scores[row]
        lengths = lasts[row] - firsts[row][:, None] + 1
        a, b = np.nonzero((lengths > 0) & (lengths <= max_answer_length) & np.isfinite(scores))
        spans = np.stack([firsts[row][a], lasts[row][b], scores[a, b]], axis=1)
        found.append((spans[np.argsort(-spans[:, 2], kind="stable")[:n_best_size]], null[row], losses[row]))
    return found


def join(
    examples: Iterable[Mapping[str, Any]], windows: Iterable[tuple[np.ndarray, float, float]], n_best_size: int
) -> list[Found]:
    """Questions from their windows in order, where part 0 begins a question. There is no answer if no window has one:
    the least of their nulls is the question's. A span that two windows show counts with its better score, and so do two
    that differ by the blanks at their ends."""
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
                continue  # blanks alone
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
    accelerator: Accelerator | evaluation.OneProcess,
    model: nn.Module,
    examples: Examples,
    config: Search,
    collate: Callable[[list[Any]], Batch],
) -> list[Found]:
    """What the model finds for each question, in order, on every process."""
    windows = evaluation.predict(
        accelerator,
        examples,
        config.eval_batch_size,
        collate=collate,
        generate=partial(find_spans, model, n_best_size=config.n_best_size, max_answer_length=config.max_answer_length),
    )
    return join(examples, windows, config.n_best_size)


def probabilities(found: Found) -> tuple[list[float], float]:
    """Of each span and of no answer: the softmax of their scores."""
    scores = np.array([found.null, *(span.score for span in found.spans)])
    shares = np.exp(scores - scores.max())
    none, *spans = (shares / shares.sum()).tolist()
    return spans, none


def is_answered(found: Found, threshold: float) -> bool:
    """Whether a question gets an answer: not where there being none is more probable than `threshold`."""
    return bool(found.spans) and probabilities(found)[1] <= threshold


def best_answers(found: Sequence[Found], contexts: Sequence[str], threshold: float = 1.0) -> list[str]:
    """The text of each question's best span; "" where no answer is more probable than `threshold`."""
    return [
        context[each.spans[0].start : each.spans[0].end] if is_answered(each, threshold) else ""
        for each, context in zip(found, contexts, strict=True)
    ]


def choose_threshold(found: Sequence[Found], rows: Rows) -> float:
    """The probability of no answer above which leaving a question open gives the best F1 on `rows`, in the middle
    between those of the two questions that it separates; 1, never, where every question has an answer."""
    if all(rows["answers"]):
        return 1.0
    state, none = squad.Answers(squad.score_v2), [probabilities(each)[1] for each in found]
    state.add(best_answers(found, rows["context"]), list(rows["answers"]), none)
    best = squad.squad_v2(state)["best_f1_thresh"]
    return (best + min((each for each in none if each > best), default=1.0)) / 2


def score(
    found: Sequence[Found], rows: Rows, windows: int, metrics: Sequence[str], threshold: float | None = None
) -> dict[str, float]:
    """{"loss", each metric: value}; a question left open by the threshold counts as that.

    Args:
        windows: how many there are of the rows; each has two labels.
        threshold: None: the best for these rows, which are to be validation rows; it is given back too, as
            "no_answer_threshold", if some of them have no answer.
    """
    checks.numbers("losses", [each.loss for each in found])
    chosen = choose_threshold(found, rows) if threshold is None else threshold
    measured = load_metrics(metrics, "question_answering")
    measured.add(best_answers(found, rows["context"], chosen), list(rows["answers"]))
    scores = {"loss": sum(each.loss for each in found) / (2 * windows)}
    # What another threshold would give is no result, and numbers of rows are no scores.
    found_out = measured.compute().items()
    scores |= {name: value for name, value in found_out if not (name.startswith("best_") or name.endswith("total"))}
    return scores if threshold is not None or all(rows["answers"]) else scores | {"no_answer_threshold": chosen}
