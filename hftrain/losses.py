"""Losses are sums, and somebody else counts: `loss(model, batch) -> sum over items`, `count(batch) -> items`.

`fit` divides the sum of a whole step, over micro-batches and processes, by its count. So accumulation, uneven batches
and the number of processes cannot change a result. Labels never go into the model: it would compute a second loss, a
mean of its own.

Shapes: B batch, T target length, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Batch = dict[str, torch.Tensor]
IGNORE = -100  # a label that is not counted, as in torch and transformers


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Sum over labelled positions of -log p(label), computed in fp32.

    Args:
        logits: (B, T, V), aligned with the labels (no shift).
        labels: (B, T), -100 where there is nothing to predict.
        label_smoothing: the share e of the target that is spread over the vocabulary (Szegedy et al. 2016, section 7).
    """
    return F.cross_entropy(
        logits.float().flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORE,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


def forward(model: torch.nn.Module, batch: Batch, **kwargs: Any) -> Any:
    """The model's output for a batch, without its labels and without a cache."""
    return model(**{key: value for key, value in batch.items() if key != "labels"}, use_cache=False, **kwargs)


def sequence_to_sequence(label_smoothing: float = 0.0) -> Callable[[torch.nn.Module, Batch], torch.Tensor]:
    """The loss of an encoder-decoder: the decoder's output at t predicts `labels` at t (the collate shifts its
    input)."""

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return cross_entropy(forward(model, batch).logits, batch["labels"], label_smoothing)

    return loss


def causal_language_model(label_smoothing: float = 0.0) -> Callable[[torch.nn.Module, Batch], torch.Tensor]:
    """The loss of a decoder: its output at t predicts `labels` at t + 1. Count with `count_next_labels`."""

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return cross_entropy(forward(model, batch).logits[:, :-1], batch["labels"][:, 1:], label_smoothing)

    return loss


def count_labels(batch: Batch) -> int:
    """Labelled positions of a batch."""
    return int((batch["labels"] != IGNORE).sum())


def count_next_labels(batch: Batch) -> int:
    """Labelled positions that have one before them to be predicted from."""
    return int((batch["labels"][:, 1:] != IGNORE).sum())
