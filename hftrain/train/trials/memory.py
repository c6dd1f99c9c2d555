"""Remembers and restores what forward passes change in a model."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig

from hftrain.distributed import gathered

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ABSENT = object()


class Changes(NamedTuple):
    """Permanent changes of a model by forward passes."""

    attributes: list[tuple[tuple[str, str | None], Any]]  # its holder from `holders_of`, and its key in it
    buffers: list[str]  # only buffers that are not saved


class Memory:
    """The memory of a model besides its parameters: attributes of modules and configurations, and buffers."""

    def __init__(self, model: nn.Module):
        self.holders = {place: (holder, copy.copy(holder)) for place, holder in holders_of(model).items()}
        self.buffers = {name: (buffer, buffer.detach().clone()) for name, buffer in model.named_buffers()}

    @torch.no_grad()
    def put_back(self) -> Changes:
        """Restores the model to the state at creation; returns the changes."""
        changes = Changes([], [])
        for place, (now, then) in self.holders.items():
            if not isinstance(now, dict):
                if now != then:
                    now.clear()
                    (now.update if isinstance(now, set) else now.extend)(then)
                continue
            for key in now.keys() | then.keys():
                before, after = then.get(key, ABSENT), now.get(key, ABSENT)
                if _alike(after, before):
                    continue
                # private to torch and transformers: hooks, flags
                private = place[1] is None and str(key).startswith("_")
                if not private:
                    changes.attributes.append((place, key))
                if not private or isinstance(before, int | float | str | None):
                    put(now, key, before)
        for name, (buffer, value) in self.buffers.items():
            if not torch.equal(buffer, value):
                changes.buffers.append(name)
                buffer.copy_(value)
        return changes


def holders_of(model: nn.Module) -> dict[tuple[str, str | None], Any]:
    """Dictionaries, lists and sets of attributes, and in attributes, of all modules and configurations."""
    holders: dict[tuple[str, str | None], Any] = {}
    configs: dict[int, tuple[str, Any]] = {}

    def look(path: str, owner: Any) -> None:
        holders[path, None] = vars(owner)
        for name, value in vars(owner).items():
            private = name.startswith("_") and name not in ("_parameters", "_buffers", "_modules")
            if isinstance(value, dict | list | set) and not private:
                holders[path, name] = value
            elif isinstance(value, PreTrainedConfig) and id(value) not in configs:
                configs[id(value)] = (f"{path}.{name}", value)
                look(f"{path}.{name}", value)

    for path, module in model.named_modules():
        look(path, module)
    return holders


def _alike(one: object, other: object) -> bool:
    return one is other or (isinstance(one, str | int | float) and type(one) is type(other) and one == other)


def put(holder: dict[Any, Any], key: Any, value: object) -> None:
    if value is ABSENT:
        holder.pop(key, None)
    else:
        holder[key] = value


@contextmanager
def same_randomness() -> Iterator[None]:
    """Restores the random generators of Python, NumPy and PyTorch."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """A context with unsharded parameters; afterwards, model and random generators are restored."""
    memory = Memory(model)
    try:
        with same_randomness(), gathered(model):
            yield
    finally:
        memory.put_back()


@contextmanager
def as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """`left_as_it_was` in evaluation mode, without gradients, with an attention kernel that runs everywhere."""
    kernel = getattr(getattr(model, "config", None), "_attn_implementation", None) or ""
    flash = "flash" in kernel  # its kernels run only on a GPU in half precision
    with left_as_it_was(model):
        if flash:
            model.set_attn_implementation("sdpa")
        model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            if flash:
                model.set_attn_implementation(kernel)
