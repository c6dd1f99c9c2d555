"""Counts the bytes of tensors that are alive, in a pass that computes shapes instead of numbers.

Floating-point tensors are fake: they have a shape, and no memory. Integers and masks are real, since shapes follow from
them: a loss keeps the labelled positions, a model looks whether a mask is all ones.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
        if not fakes and (tensors or kwargs.get("dtype", torch.get_default_dtype()) not in FLOATS):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:  # a number that the model computed
            return False if args[0].dtype == torch.bool else 1
        if func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default):
            args = (args[0], _numbered(args[1]), *args[2:])
        made = func(*args, **kwargs)
        for tensor in tree_iter(made):
            if isinstance(tensor, FakeTensor):
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
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, Ledger(fake, classes) as ledger:
        yield ledger


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
