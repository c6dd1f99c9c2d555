"""Predictions for each word: tags and their probabilities, scores.

Shapes: B windows of a batch, T tokens of a window, W words of a sentence, K tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch.nn.functional as F
from torch import nn

from hftrain.data.examples import Examples
from hftrain.losses import IGNORE, Batch, Collate
from hftrain.metrics import Metrics, checks, load_metrics
from hftrain.tasks.tagging.config import TagConfig
from hftrain.tasks.tagging.losses import logits_of
from hftrain.train import evaluation
from hftrain.train.choosing import choose_best_metric

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


class Tagged(NamedTuple):
    """The predictions for a sentence, or for a window's own words."""

    tags: list[int]  # (W,)
    scores: list[float]  # (W,) their probabilities
    loss: float = 0.0  # summed over its labels
    labels: int = 0


def choose_metrics(config: TagConfig, rows: Mapping[str, Rows], scheme: str) -> list[str]:
    """The metrics that `config` names, else seqeval, or accuracy where the tags are not entities; tried on the held-out
    tags before any training (`choose_best_metric`)."""
    metrics = config.metrics or ["accuracy" if scheme == "none" else "seqeval"]
    choose_best_metric(config, "token_classification", metrics, {name: rows[name]["tags"] for name in rows})
    return metrics


def tag_batch(model: nn.Module, batch: Batch) -> list[Tagged]:
    """Predictions for the words that each window owns."""
    logits = logits_of(model, batch)
    scores, tags = logits.softmax(dim=-1).max(dim=-1)
    losses = F.cross_entropy(logits.transpose(1, 2), batch["labels"], ignore_index=IGNORE, reduction="none").sum(dim=1)
    counts = (batch["labels"] != IGNORE).sum(dim=1)
    predictions = []
    for row, words in enumerate(batch["words"].bool()):
        own = tags[row, words].tolist(), scores[row, words].tolist()
        predictions.append(Tagged(*own, loss=float(losses[row]), labels=int(counts[row])))
    return predictions


def join(parts: Iterable[int], windows: Iterable[Tagged]) -> list[Tagged]:
    """Joins windows, in order, to sentences; part 0 begins a sentence."""
    joined: list[Tagged] = []
    for part, window in zip(parts, windows, strict=True):
        if part:
            tags, scores, loss, labels = joined.pop()
            window = Tagged(tags + window.tags, scores + window.scores, loss + window.loss, labels + window.labels)
        joined.append(window)
    return joined


def tag(
    accelerator: evaluation.Processes,
    model: nn.Module,
    examples: Examples,
    batch_size: int,
    collate: Collate,
) -> list[Tagged]:
    """The model's predictions for each sentence, in order, on every process."""
    generate = partial(tag_batch, model)
    predictions = evaluation.predict(
        accelerator, examples, batch_size, collate=collate, generate=generate, by_tokens=True
    )
    return join(examples.column("part"), predictions)


def score(
    tagged: Sequence[Tagged], references: Sequence[Sequence[str]], names: Sequence[str], metrics: Sequence[str]
) -> tuple[dict[str, float], Metrics]:
    """{"loss", name: value of each metric}, without the prefix "overall_", and the metrics themselves.

    Args:
        references: the reference tags of each sentence's words.
        names: the tags in the order of their numbers.
    """
    measured = load_metrics(metrics, "token_classification")
    measured.add([[names[tag] for tag in sentence.tags] for sentence in tagged], references)
    checks.numbers("losses", [sentence.loss for sentence in tagged])
    loss = sum(sentence.loss for sentence in tagged) / sum(sentence.labels for sentence in tagged)
    return {"loss": loss} | {key.removeprefix("overall_"): value for key, value in measured.compute().items()}, measured
