"""The loss that tags are learnt by. Shapes: B windows of a batch, T tokens of a window, K tags."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from hftrain.losses import Batch, cross_entropy


def logits_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    """(B, T, K) fp32."""
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()


def loss(label_smoothing: float = 0.0) -> Callable[[nn.Module, Batch], torch.Tensor]:
    """Sum of the cross-entropy over labelled tokens; count with `losses.count_labels`."""
    return lambda model, batch: cross_entropy(logits_of(model, batch), batch["labels"], label_smoothing)
