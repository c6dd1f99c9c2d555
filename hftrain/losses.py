"""A loss is a sum and the number of its items: a `Loss` has both, so that they always belong together.

`fit` divides the sum of a step, over micro-batches and processes, by its count. So accumulation, uneven batches and the
number of processes cannot change a result. Labels are never passed to the model, which would compute a second loss with
its own mean.

Shapes: B batch, T target length, V vocabulary.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Batch = dict[str, torch.Tensor]
Collate = Callable[[list[Any]], Batch]
IGNORE = -100  # a label that the loss ignores, as in torch and transformers


@dataclass(frozen=True)
class Loss:
    """The loss that `fit` minimises: the sum of `summed` over a step, divided by the sum of `count`.

    Attributes:
        summed: (model, batch) -> the SUM of the loss over the batch's items, with a gradient.
        count: batch -> the number of its items. It is called before any forward pass.
    """

    summed: Callable[[nn.Module, Batch], torch.Tensor]
    count: Callable[[Batch], int]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Sum over labelled positions of -log p(label), computed in fp32.

    Args:
        logits: (B, T, V), aligned with the labels (no shift).
        labels: (B, T), -100 at positions without a label.
        label_smoothing: the share e of the target that is distributed over the vocabulary (Szegedy et al. 2016, section
            7).
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


def sequence_to_sequence(label_smoothing: float = 0.0, chunked: bool = False) -> Loss:
    """The loss if the output at t predicts `labels` at t: for encoder-decoders (the collate shifts the input) and
    masked language models. `chunked`: see `sum_in_head`."""
    summed = sum_in_head if chunked else sum_over_logits
    return Loss(lambda model, batch: summed(model, batch, batch["labels"], label_smoothing), count_labels)


def causal_language_model(label_smoothing: float = 0.0, chunked: bool = False) -> Loss:
    """The loss of a decoder, whose output at t predicts `labels` at t + 1. `chunked`: see `sum_in_head`."""
    summed = sum_in_head if chunked else sum_over_logits

    def next_tokens(model: nn.Module, batch: Batch) -> torch.Tensor:
        return summed(model, batch, F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE), label_smoothing)

    return Loss(next_tokens, count_next_labels)


def sum_over_logits(model: torch.nn.Module, batch: Batch, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """`cross_entropy` of the model's logits with `labels` (B, T) at the same positions."""
    return cross_entropy(forward(model, batch).logits, labels, label_smoothing)


def count_labels(batch: Batch) -> int:
    """The number of labelled positions of a batch."""
    return int((batch["labels"] != IGNORE).sum())


def count_next_labels(batch: Batch) -> int:
    """The number of labelled positions with a position before them."""
    return int((batch["labels"][:, 1:] != IGNORE).sum())


# ---- the same sum without the logits, which of 16 sequences of 1024 tokens and 50,000 classes take 3.3 GB, thrice ----


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropy of a linear layer's outputs, computed a few rows at a time.

    The gradients are computed in the forward pass, from the probabilities of each chunk: nothing is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        label_smoothing: float,
        rows: int,
    ) -> torch.Tensor:
        """hidden (N, D), weight (V, D), bias (V,), labels (N,) without -100; `rows` of N at a time."""
        device, smoothed = hidden.device.type, label_smoothing / len(weight)
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        wanted = ctx.needs_input_grad[:3]
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        grad_bias = torch.zeros(len(weight), device=hidden.device) if wanted[2] else None
        grad_hidden = torch.empty_like(hidden) if wanted[0] else None
        with torch.autocast(device, enabled=False):
            matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
            for start in range(0, len(hidden), rows):
                part = slice(start, start + rows)
                inputs, target = hidden[part].to(dtype), labels[part, None]
                logits = F.linear(inputs, matrix, offset).float()
                normaliser = logits.logsumexp(dim=-1, keepdim=True)
                losses[part] = (normaliser - (1 - label_smoothing) * logits.gather(1, target)).squeeze(1)
                if label_smoothing:
                    losses[part] -= label_smoothing * logits.mean(dim=-1)
                if not any(wanted):
                    continue
                gradient = logits.sub_(normaliser).exp_()  # softmax minus the target
                if label_smoothing:
                    gradient -= smoothed
                gradient.scatter_add_(1, target, torch.full_like(normaliser, label_smoothing - 1))
                if grad_bias is not None:
                    grad_bias += gradient.sum(dim=0)
                gradient = gradient.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = gradient @ matrix
                if grad_weight is not None and dtype == torch.float32:
                    grad_weight.addmm_(gradient.T, inputs)
                elif grad_weight is not None:
                    grad_weight += gradient.T @ inputs
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return losses.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = (g if g is None else g.mul_(factor) for g in ctx.saved_tensors)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """`cross_entropy(F.linear(hidden, weight, bias), labels, label_smoothing)`, exactly, in a fraction of the memory.

    Args:
        hidden: (B, T, D); only labelled positions are computed. weight: (V, D), bias: (V,), labels: (B, T).
    """
    labelled = (labels != IGNORE).flatten().nonzero()[:, 0]  # a GPU is waited for here, once: how many are there?
    hidden, labels = hidden.flatten(0, -2).index_select(0, labelled), labels.flatten().index_select(0, labelled)
    rows = min(max(128, len(labels) // 16), 2048)  # few, since each chunk reads and writes the weight's gradient once
    inputs = hidden, weight, bias, labels, label_smoothing, rows
    summed: torch.Tensor = ChunkedCrossEntropy.apply(*inputs)  # type: ignore[no-untyped-call]
    return summed


_LABELS: ContextVar[tuple[torch.Tensor, float] | None] = ContextVar("labels", default=None)


class SummingHead(nn.Linear):
    """An output head that returns the summed loss instead of logits while `sum_in_head` runs.

    It does so in its own forward pass, in which sharded weights (ZeRO-3, FSDP) are gathered and hooks run.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        labels_and_smoothing = _LABELS.get()
        if labels_and_smoothing is None:
            return super().forward(input)
        if torch.compiler.is_compiling():  # compiling a graph of so many chunks would gain nothing
            uncompiled = torch.compiler.disable(chunked_cross_entropy)
            summed: torch.Tensor = uncompiled(input, self.weight, self.bias, *labels_and_smoothing)
            return summed
        return chunked_cross_entropy(input, self.weight, self.bias, *labels_and_smoothing)


def sum_in_head(model: torch.nn.Module, batch: Batch, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """`sum_over_logits` by a model whose head is a `SummingHead`; `hftrain.train.trials.chunk_loss` makes it one."""
    token = _LABELS.set((labels, label_smoothing))
    try:
        summed: torch.Tensor = forward(model, batch).logits
    finally:
        _LABELS.reset(token)
    if summed.numel() != 1:
        raise ValueError(
            f"{type(model).__name__} returns logits, not their loss: call hftrain.train.trials.chunk_loss first"
        )
    return summed
