"""The loss of classification. Shapes: B examples of a batch, K classes or labels (1 for regression)."""

import torch
import torch.nn.functional as F
from torch import nn

from hftrain.losses import Batch, Loss


def losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    problem: str,
    *,
    weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> torch.Tensor:
    """(B,) the loss of each example, in fp32 for logits of any type.

    - single_label_classification: -log p of the class; times (1 - p)^gamma for the focal loss (Lin et al. 2017, eq. 4).
      For soft labels the mean over the classes by their shares.
    - multi_label_classification: the mean over labels of the binary cross-entropy, or of its focal loss.
    - regression: the squared error.

    Args:
        logits: (B, K).
        labels: (B,) classes or (B, K) shares of the classes, (B, K) 0.0 or 1.0, (B,) numbers.
        weights: (K,) of each class; for several labels that of a row with the label, relative to 1.
        label_smoothing: the share of the target distributed over all classes; for several labels over yes and no.
    """
    logits = logits.float()
    if problem == "regression":
        return (logits.squeeze(-1) - labels) ** 2
    if problem == "single_label_classification":
        assert not (focal_gamma and labels.ndim == 2), "the focal loss needs the probability of one class"
        values = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
        weight: torch.Tensor | float = 1.0
        if weights is not None:
            weight = weights.to(logits.device)
            weight = labels @ weight if labels.ndim == 2 else weight[labels]
    else:
        targets = labels * (1 - label_smoothing) + label_smoothing / 2
        values = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        weight = 1.0 if weights is None else torch.where(labels == 1, weights.to(logits.device), 1.0)
    if focal_gamma:
        wrong = -torch.expm1(-values)  # 1 - p, without cancellation
        values = values * wrong.clamp(min=1e-12) ** focal_gamma  # its slope at 0 may be infinite
    values = values * weight
    return values if problem == "single_label_classification" else values.mean(dim=-1)


def classification(
    problem: str,
    *,
    weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Loss:
    """The sum of `losses` over the examples.

    Weights have a mean of 1 over the training rows, so the sum is divided by rows, not by weights: the weight of a row
    does not depend on its step."""

    def summed(model: nn.Module, batch: Batch) -> torch.Tensor:
        values = losses(
            logits_of(model, batch), batch["labels"], problem,
            weights=weights, label_smoothing=label_smoothing, focal_gamma=focal_gamma,
        )  # fmt: skip
        return values.sum()

    return Loss(summed, count_examples)


def logits_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    """(B, K)"""
    return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


def count_examples(batch: Batch) -> int:
    return len(batch["labels"])
