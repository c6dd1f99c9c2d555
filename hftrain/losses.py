"""A loss is a sum and the number of its items: a `Loss` has both, so that they always belong together.

`fit` divides the sum of a step, over micro-batches and processes, by its count. So accumulation, uneven batches and the
number of processes cannot change a result. Labels are never passed to the model, which would compute a second loss with
its own mean.

Shapes: B batch, T target length, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from torch import nn

Batch = dict[str, torch.Tensor]
Collate = Callable[[list[Any]], Batch]
IGNORE = -100  # a label that the loss ignores, as in torch and transformers
WITHOUT_FP64 = {"mps"}  # kinds of devices


def exact(device: torch.device) -> torch.dtype:
    """The type for sums over a step or a data set on this device: fp64, if the device has it."""
    return torch.float32 if device.type in WITHOUT_FP64 else torch.float64


class Sent(dict[str, torch.Tensor]):
    """A batch on a device; `host` is the same on the CPU, where a loss counts without waiting for the device."""

    host: Batch


def send(batch: Batch, device: torch.device | str) -> Sent:
    """Copies a batch to the device; a GPU copies pinned memory while it computes."""
    gpu, pinned = torch.device(device).type == "cuda", batch
    if gpu:
        pinned = {name: value.pin_memory() if torch.is_tensor(value) else value for name, value in batch.items()}
    sent = Sent(send_to_device(pinned, device, non_blocking=gpu))
    sent.host = batch
    return sent


def host(batch: Batch) -> Batch:
    """The batch on the CPU, or, if it was not sent from there, the batch itself."""
    return batch.host if isinstance(batch, Sent) else batch


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

    def these_tokens(model: nn.Module, batch: Batch) -> torch.Tensor:
        if chunked:
            return sum_in_head(model, batch, batch["labels"], label_smoothing, count_labels(host(batch)))
        return sum_over_logits(model, batch, batch["labels"], label_smoothing)

    return Loss(these_tokens, count_labels)


def causal_language_model(label_smoothing: float = 0.0, chunked: bool = False) -> Loss:
    """The loss of a decoder, whose output at t predicts `labels` at t + 1. `chunked`: see `sum_in_head`."""

    def next_tokens(model: nn.Module, batch: Batch) -> torch.Tensor:
        labels = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
        if chunked:
            return sum_in_head(model, batch, labels, label_smoothing, count_next_labels(host(batch)))
        return sum_over_logits(model, batch, labels, label_smoothing)

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


class ChunkedLogProbs(torch.autograd.Function):
    """log p of a label for each row of a linear layer's inputs, computed a few rows at a time.

    What becomes of each is known only later, so the backward pass computes the logits of a chunk again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, rows: int
    ) -> torch.Tensor:
        """hidden (N, D), weight (V, D), bias (V,), labels (N,) without -100 -> (N,) fp32; `rows` of N at a time."""
        device = hidden.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        ctx.rows = rows
        ctx.save_for_backward(hidden, weight, bias, labels)
        values = hidden.new_empty(len(hidden), dtype=torch.float32)
        for part, logits in ChunkedLogProbs.chunks(ctx, hidden, weight, bias):
            values[part] = logits.gather(1, labels[part, None]).squeeze(1) - logits.logsumexp(dim=-1)
        return values

    @staticmethod
    def chunks(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """The rows of each chunk, and their logits in fp32."""
        with torch.autocast(hidden.device.type, enabled=False):
            matrix, offset = weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype)
            for start in range(0, len(hidden), ctx.rows):
                part = slice(start, start + ctx.rows)
                yield part, F.linear(hidden[part].to(ctx.dtype), matrix, offset).float()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wanted[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        grad_bias = torch.zeros(len(weight), device=hidden.device) if wanted[2] else None
        for part, logits in ChunkedLogProbs.chunks(ctx, hidden, weight, bias):
            factor = factors[part, None]
            gradient = logits.softmax(dim=-1).mul_(-factor)  # the label minus softmax
            gradient.scatter_add_(1, labels[part, None], factor)
            if grad_bias is not None:
                grad_bias += gradient.sum(dim=0)
            gradient = gradient.to(ctx.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = gradient @ weight.to(ctx.dtype)
            if grad_weight is not None:
                grad_weight += gradient.T @ hidden[part].to(ctx.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    count: int | None = None,
) -> torch.Tensor:
    """`cross_entropy(F.linear(hidden, weight, bias), labels, label_smoothing)`, exactly, in a fraction of the memory.

    Args:
        hidden: (B, T, D); only labelled positions are computed. weight: (V, D), bias: (V,), labels: (B, T).
        count: the number of labelled positions; without it, a GPU is waited for.
    """
    labelled = places(labels, count)
    hidden, labels = hidden.flatten(0, -2).index_select(0, labelled), labels.flatten().index_select(0, labelled)
    inputs = hidden, weight, bias, labels, label_smoothing, rows_of_chunk(labels)
    summed: torch.Tensor = ChunkedCrossEntropy.apply(*inputs)  # type: ignore[no-untyped-call]
    return summed


def chunked_log_probs(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, count: int
) -> torch.Tensor:
    """(B, T) log p of each label by `F.linear(hidden, weight, bias)`, 0 at positions without one; the arguments are
    those of `chunked_cross_entropy`."""
    labelled, shape = places(labels, count), labels.shape
    hidden, labels = hidden.flatten(0, -2).index_select(0, labelled), labels.flatten().index_select(0, labelled)
    values: torch.Tensor = ChunkedLogProbs.apply(hidden, weight, bias, labels, rows_of_chunk(labels))  # type: ignore[no-untyped-call]
    return values.new_zeros(shape.numel()).index_add(0, labelled, values).view(shape)


def places(labels: torch.Tensor, count: int | None) -> torch.Tensor:
    """The numbers of the labelled positions of flattened labels; a GPU that is given their count is not waited for."""
    labelled = (labels != IGNORE).flatten()
    return torch.nonzero_static(labelled, size=int(labelled.sum()) if count is None else count)[:, 0]


def rows_of_chunk(labels: torch.Tensor) -> int:
    return min(max(128, len(labels) // 16), 2048)  # few, since each chunk reads and writes the weight's gradient once


# What a `SummingHead` does with its input, weight and bias in place of the logits.
_WORK: ContextVar[Callable[..., torch.Tensor] | None] = ContextVar("work of the head", default=None)


class SummingHead(nn.Linear):
    """An output head that returns the summed loss, or log-probabilities, instead of logits while `sum_in_head` or
    `label_log_probs` runs.

    It does so in its own forward pass, in which sharded weights (ZeRO-3, FSDP) are gathered and hooks run.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        work = _WORK.get()
        if work is None:
            return super().forward(input)
        if torch.compiler.is_compiling():  # compiling a graph of so many chunks would gain nothing
            work = torch.compiler.disable(work)
        return work(input, self.weight, self.bias)


def sum_in_head(
    model: torch.nn.Module, batch: Batch, labels: torch.Tensor, label_smoothing: float, count: int | None = None
) -> torch.Tensor:
    """`sum_over_logits` by a model whose head is a `SummingHead`; `hftrain.train.trials.chunk_loss` makes it one.
    `count`: see `chunked_cross_entropy`."""
    work = partial(chunked_cross_entropy, labels=labels, label_smoothing=label_smoothing, count=count)
    summed = _with_head(work, model, batch)
    if summed.numel() != 1:
        raise ValueError(
            f"{type(model).__name__} returns logits, not their loss: call hftrain.train.trials.chunk_loss first"
        )
    return summed


def label_log_probs(model: torch.nn.Module, batch: Batch, labels: torch.Tensor, count: int) -> torch.Tensor:
    """(B, T) fp32 log p of each of `labels` (B, T) by the model's logits at the same positions, 0 at those without a
    label; in chunks if its head is a `SummingHead`. `count`: labelled positions."""
    made = _with_head(partial(chunked_log_probs, labels=labels, count=count), model, batch)
    if made.dim() == 2:
        return made
    labelled = places(labels, count)
    logits = made.flatten(0, 1).index_select(0, labelled).float()
    values = -F.cross_entropy(logits, labels.flatten().index_select(0, labelled), reduction="none")
    return values.new_zeros(labels.numel()).index_add(0, labelled, values).view(labels.shape)


def _with_head(work: Callable[..., torch.Tensor], model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    token = _WORK.set(work)
    try:
        made: torch.Tensor = forward(model, batch).logits
    finally:
        _WORK.reset(token)
    return made
