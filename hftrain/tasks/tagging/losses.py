"""The loss of tagging. Shapes: B windows of a batch, T tokens of a window, K tags."""

from __future__ import annotations

import torch
from torch import nn

from hftrain.losses import Batch, Loss, count_labels, cross_entropy


def logits_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    """(B, T, K) fp32."""
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()


def loss(label_smoothing: float = 0.0) -> Loss:
    """The cross-entropy of the labelled tokens."""
    return Loss(
        lambda model, batch: cross_entropy(logits_of(model, batch), batch["labels"], label_smoothing), count_labels
    )
