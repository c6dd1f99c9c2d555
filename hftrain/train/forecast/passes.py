"""What one micro-batch takes: the bytes of a forward and a backward pass, counted on fake tensors."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils.operations import ConvertOutputsToFp32
from torch import nn
from torch._subclasses import fake_tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from hftrain.data.examples import Examples, fetch
from hftrain.losses import Batch, Loss
from hftrain.train.flops import size
from hftrain.train.forecast.ledger import as_fake, counting
from hftrain.train.optim import keep_matmuls
from hftrain.train.trials.small import LAYERS

logger = logging.getLogger(__name__)


class Pass(NamedTuple):
    """Bytes of one micro-batch, without weights and optimizer.

    with_gradients: the most that activations and unsharded gradients take together.
    activations: the most that everything but gradients takes.
    logits: the largest tensor that has an entry for each token of the vocabulary, a part of the activations.
    """

    with_gradients: int
    activations: int
    logits: int


UNKNOWN = (  # what a pass raises that needs the numbers it computes
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.DataDependentOutputException,
    fake_tensor.UnsupportedOperatorException,
)

# Attention on CPUs, where the passes are counted; PyTorch's counter has formulas only for GPUs. What its backward pass
# computes again does not count.
ON_CPUS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda *shapes, **_: 2 * sdpa_flop_count(*shapes[1:4])
    ),
}


def counted_flops(
    model: Any, examples: Examples, collate: Callable[[list[Any]], Batch], loss: Loss
) -> Callable[[np.ndarray], float] | None:
    """Model FLOPs of a training step, as a function of the indices of its examples, for models of any kind: counted in
    passes of three lengths, and quadratic between them. None if the passes depend on numbers that the model computes,
    or its weights are sharded already.
    """
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return None
    lengths = examples.lengths.sum(axis=1).astype(float)
    order = np.argsort(lengths, kind="stable")
    places = {lengths[place]: int(place) for place in order[[len(order) // 4, len(order) // 2, -1]]}
    try:
        counts = [_flops_of(model, collate(fetch(examples, [place] * 2)), loss) / 2 for place in places.values()]
    except Exception as error:  # of the model's or the recipe's own code, which may need numbers
        logger.info("the FLOPs of %s cannot be counted (%s: %s)", type(model).__name__, type(error).__name__, error)
        return None
    widest = [min(places), max(places) + 1]  # NumPy 1 needs a domain with a width, also for one place
    curve = np.polynomial.Polynomial.fit([*places], counts, len(places) - 1, domain=widest)
    return lambda indices: float(curve(lengths[indices]).sum())


def without_numbers(model: Any) -> Any:
    """A copy whose parameters are on the meta device."""
    shapes = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, dict[int, Any](shapes))


def _flops_of(model: Any, batch: Batch, loss: Loss) -> int:
    """FLOPs of the products in a forward and a backward pass."""
    tried = without_numbers(model).train()
    with counting() as ledger:
        as_fake(tried, ledger)
        with FlopCounterMode(display=False, custom_mapping=ON_CPUS) as counter:
            loss.summed(tried, dict(batch)).backward()
    return counter.get_total_flops()


FEW = 2, 4  # layers at which a deep model is counted: its passes grow by the same bytes with each layer


def count_pass(
    model: Any,
    batch: Batch,
    loss: Loss,
    *,
    bf16: bool = False,
    narrow: bool = False,
    checkpointing: bool = False,
    selective: bool = False,
) -> Pass:
    """Counts the first pass of a step of `model`, which may be on the meta device and is not changed.

    Args:
        bf16: it computes in bf16, by autocast,
        narrow: or since all its weights are bf16, as under ZeRO and FSDP2.

    Raises:
        ValueError: the shapes in the model depend on numbers that it computes.
    """

    def counted(layers: int | None) -> Pass:
        tried = copy.deepcopy(model).train()
        if layers is not None:
            shorten(tried, layers)
        head = getattr(tried, "get_output_embeddings", lambda: None)()
        classes = int(getattr(head, "out_features", 0))
        if checkpointing:
            how: dict[str, Any] = {"use_reentrant": False} | ({"context_fn": keep_matmuls} if selective else {})
            tried.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        if bf16 and not narrow:
            plain = tried.forward
            tried.forward = ConvertOutputsToFp32(torch.autocast("cpu", torch.bfloat16)(plain))  # as Accelerate does
        with counting(classes) as ledger:
            as_fake(tried, ledger, torch.bfloat16 if narrow else None)
            ledger.watch_gradients(tried)
            ledger.hold(batch)
            ledger.start_again()
            loss.summed(tried, dict(batch)).backward()
            return Pass(ledger.peak, ledger.peak_beside_gradients, ledger.largest_logits)

    depths = {len(stack) for stack in stacks(model)}
    depth = depths.pop() if len(depths) == 1 else 0
    try:
        if depth <= 2 * FEW[1]:
            return counted(None)
        fewer, more = map(counted, FEW)
    except UNKNOWN as error:
        raise ValueError(
            f"the memory of {type(model).__name__} depends on the numbers that it computes ({error}), so it cannot be "
            "counted before the run"
        ) from None
    factor = (depth - FEW[0]) / (FEW[1] - FEW[0])
    return Pass(*(round(a + (b - a) * factor) for a, b in zip(fewer, more, strict=True)))


def stacks(model: nn.Module) -> list[nn.ModuleList]:
    """The lists of layers that transformers names as units of the model."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [stack for stack in lists if stack and {type(layer).__name__ for layer in stack} <= names]


def shorten(model: nn.Module, layers: int) -> None:
    """Leaves so many layers in each stack."""
    for stack in stacks(model):
        del stack[layers:]
    for name in LAYERS & vars(model.config).keys():  # type: ignore[arg-type]
        setattr(model.config, name, min(layers, getattr(model.config, name)))


def largest_layer(model: Any) -> int:
    """Numbers in the largest group of weights that FSDP2 gathers at once: a layer, an embedding, or the rest."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    groups: list[Any] = [module for module in model.modules() if type(module).__name__ in names]
    groups += [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    groups += [] if head is None else [head]
    inside = {id(p) for group in groups for p in group.parameters()}
    rest = sum(size(p) for p in model.parameters() if id(p) not in inside)
    return max([rest, *(sum(map(size, group.parameters())) for group in groups)])
