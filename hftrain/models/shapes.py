"""Models without weights: parameters on the meta device, which have a shape and a type, for `hftrain plan`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

NF4 = 0.5 + 1 / 64 + 4 / 64 / 256  # bytes of a number: 4 bits, and the scales of its block, quantized themselves
_ASKED: ContextVar[bool] = ContextVar("shapes only", default=False)


def wants_shapes() -> bool:
    """Whether a model is loaded only to count its bytes."""
    return _ASKED.get()


@contextmanager
def shapes_only() -> Iterator[None]:
    """A context in which models are loaded without weights."""
    token = _ASKED.set(True)
    try:
        yield
    finally:
        _ASKED.reset(token)


class Unpack(torch.autograd.Function):
    """A product with a weight that is unpacked for it, in the forward and again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, packed: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.shape = shape
        return F.linear(inputs, inputs.new_empty(shape))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        return gradient @ gradient.new_empty(ctx.shape), None, None


class PackedLinear(nn.Linear):
    """Has the size of a linear layer in 4 bits, as bitsandbytes stores it, and no numbers."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        unpacked: torch.Tensor = Unpack.apply(input.to(kind), self.weight, (self.out_features, self.in_features))  # type: ignore[no-untyped-call]
        return unpacked


def pack(model: Any) -> None:
    """Makes the linear layers of a model on the meta device 4 bits wide, except for its output head."""
    head = model.get_output_embeddings()
    for module in model.modules():
        if type(module) is nn.Linear and module is not head:
            shape = module.weight.shape
            packed = torch.empty(round(shape.numel() * NF4), dtype=torch.uint8, device="meta")
            module.weight = nn.Parameter(packed, requires_grad=False)
            module.weight.quant_state = SimpleNamespace(shape=shape)  # type: ignore[attr-defined]
            module.__class__ = PackedLinear
    model.is_loaded_in_4bit = True
