"""Counts the bytes of tensors that are alive, in a pass that computes shapes instead of numbers.

Floating-point tensors are fake: they have a shape, and no memory. Integers and masks are real, since shapes follow from
them: a loss keeps the labelled positions, a model looks whether a mask is all ones. So are small constants, of which a
detector makes masks. What a model asks of fake numbers, whether all are in order and which prediction matches which
object, has an answer after which it goes on.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import pytorch_utils

from hftrain.losses import Batch

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ATEN = torch.ops.aten
CONSTANTS = (ATEN.zeros.default, ATEN.ones.default, ATEN.full.default)
SMALL = 2**20  # bytes of a constant that is real


class Ledger(TorchDispatchMode):
    """The live bytes of tensors made inside this context.

    Attributes:
        live: now, without gradients of parameters.
        gradients: now, of parameters.
        peak: the largest `live` + `gradients`.
        peak_beside_gradients: the largest `live`, for strategies whose gradients are counted as shards.
        largest_logits: bytes of the largest tensor with `classes` as last dimension.
    """

    def __init__(self, fake: FakeTensorMode, classes: int = 0):
        super().__init__()
        self.fake, self.classes = fake, classes
        self.live = self.gradients = self.peak = self.peak_beside_gradients = self.largest_logits = 0
        self._entries: dict[int, list[Any]] = {}  # id of a storage -> bytes, whether of a gradient, reference

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
        fakes = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        constant = func in CONSTANTS and 4 * math.prod(args[0]) <= SMALL
        if not fakes and (tensors or constant or kwargs.get("dtype", torch.get_default_dtype()) not in FLOATS):
            with unset_fake_temporarily():
                return self._count(func(*args, **kwargs))
        if func is ATEN._local_scalar_dense.default:  # a number that the model computed
            return False if args[0].dtype == torch.bool else 1
        if func is ATEN.all.default:  # whether all numbers are in order
            with unset_fake_temporarily():
                return torch.ones((), dtype=torch.bool)
        if func in (ATEN.index.Tensor, ATEN.index_put_.default, ATEN.index_put.default):
            args = (args[0], _numbered(args[1]), *args[2:])
        if func is ATEN.masked_select.default and not isinstance(args[1], FakeTensor):
            with unset_fake_temporarily():
                chosen = int(args[1].expand(torch.broadcast_shapes(args[0].shape, args[1].shape)).sum())
            return self._count(args[0].new_empty(chosen))
        if func is ATEN._ctc_loss.Tensor:  # scores (T, B, V) and labels (B, L); it keeps a table of 2 L + 1 states
            frames, rows = args[0].shape[:2]
            return self._count((args[0].new_empty(rows), args[0].new_empty(rows, frames, 2 * args[1].shape[1] + 1)))
        if func is ATEN._ctc_loss_backward.Tensor:
            return self._count(args[1].new_empty(args[1].shape))
        return self._count(func(*args, **kwargs))

    def _count(self, made: Any) -> Any:
        """`made`, whose floating-point tensors are counted."""
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor) and tensor.dtype in FLOATS:
                self._add(tensor)
        return made

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._entries:
            return
        self._entries[key] = [storage.nbytes(), False, weakref.finalize(storage, self._remove, key)]
        self.live += storage.nbytes()
        if self.classes and tensor.shape and tensor.shape[-1] == self.classes:
            self.largest_logits = max(self.largest_logits, storage.nbytes())
        self._look()

    def _remove(self, key: int) -> None:
        size, is_gradient, _ = self._entries.pop(key)
        if is_gradient:
            self.gradients -= size
        else:
            self.live -= size

    def _look(self) -> None:
        self.peak = max(self.peak, self.live + self.gradients)
        self.peak_beside_gradients = max(self.peak_beside_gradients, self.live)

    def hold(self, batch: Batch) -> None:
        """Counts the tensors of a batch, which are there as long as it is."""
        for values in batch.values():
            if isinstance(values, torch.Tensor):
                self._add(values)

    def leave_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """Does not count these, which are counted apart: weights."""
        for tensor in tensors:
            if (entry := self._entries.get(tensor.untyped_storage()._cdata)) is not None:
                self.live -= entry[0]
                entry[0] = 0

    def watch_gradients(self, model: nn.Module) -> None:
        """Counts the gradients of parameters, as they come, as gradients."""

        def arrived(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            entry = self._entries.get(parameter.grad.untyped_storage()._cdata)
            if entry is not None and not entry[1]:
                entry[1] = True
                self.live -= entry[0]
                self.gradients += entry[0]

        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(arrived)

    def start_again(self) -> None:
        """Forgets the peaks."""
        self.peak = self.peak_beside_gradients = 0
        self._look()


class Numbers(TorchFunctionMode):
    """NumPy and SciPy get zeros in place of fake numbers: a matching has the same size whatever they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.Tensor.__array__, torch.Tensor.numpy) and isinstance(args[0], FakeTensor):
            return np.zeros(args[0].shape)
        return func(*args, **(kwargs or {}))


def _numbered(indices: Sequence[Any]) -> list[Any]:
    """Masks as numbers of the positions where they are true: how many those are, only a real mask knows."""
    numbered: list[Any] = []
    for index in indices:
        if isinstance(index, torch.Tensor) and not isinstance(index, FakeTensor) and index.dtype == torch.bool:
            with unset_fake_temporarily():
                numbered += index.nonzero(as_tuple=True)
        else:
            numbered.append(index)
    return numbered


@contextmanager
def counting(classes: int = 0) -> Iterator[Ledger]:
    """A context in which new floating-point tensors are fake and counted."""
    compiles = pytorch_utils.is_torchdynamo_compiling
    pytorch_utils.is_torchdynamo_compiling = lambda: True  # transformers would keep fake tensors for the run's model
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake, Ledger(fake, classes) as ledger, Numbers():
            yield ledger
    finally:
        pytorch_utils.is_torchdynamo_compiling = compiles


def as_fake(model: nn.Module, ledger: Ledger, dtype: torch.dtype | None = None) -> None:
    """Turns the weights of a model on the meta device (or any other) into fake ones on the CPU, as if they were there.

    dtype: that of the floating-point weights, if they are converted.
    """

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        if not tensor.is_floating_point() and tensor.device.type == "cpu":
            return tensor
        with ledger.fake:
            make = torch.empty if tensor.is_floating_point() else torch.zeros  # whole numbers may be indices
            return make(tensor.shape, dtype=kind, device="cpu")

    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(fake(parameter.data), requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]  # type: ignore[assignment]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = fake(buffer)
    ledger.leave_out([*model.parameters(), *model.buffers()])
