"""The loss of question answering. Shapes: B windows of a batch, T tokens of a window."""

from __future__ import annotations

import math

import torch
from torch import nn

from hftrain.losses import Batch, Loss, count_labels


def log_probabilities(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) fp32 of an answer's first and of its last token: -inf outside the context and the null token.

    The models' own softmax is over all tokens, padding and question too: its loss depends on the rest of the batch.
    """
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
    output = model(**inputs)
    allowed = batch["context"].bool().scatter(1, batch["null"][:, None], True)
    first, last = (
        logits.float().masked_fill(~allowed, -math.inf) for logits in (output.start_logits, output.end_logits)
    )
    return first.log_softmax(dim=-1), last.log_softmax(dim=-1)


def span_losses(
    first: torch.Tensor, last: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """(B,) the sum of the cross-entropies of the first and the last token."""
    losses = torch.zeros(len(labels), device=first.device)
    for scores, label in ((first, labels[:, :1]), (last, labels[:, 1:])):
        losses = losses - (1 - label_smoothing) * scores.gather(1, label).squeeze(1)
        if label_smoothing:
            allowed = scores > -math.inf
            losses = losses - label_smoothing * scores.masked_fill(~allowed, 0.0).sum(dim=1) / allowed.sum(dim=1)
    return losses


def loss(label_smoothing: float = 0.0) -> Loss:
    """Both cross-entropies of each window; they count as two items, so that their mean equals transformers'."""

    def summed(model: nn.Module, batch: Batch) -> torch.Tensor:
        return span_losses(*log_probabilities(model, batch), batch["labels"], label_smoothing).sum()

    return Loss(summed, count_labels)
