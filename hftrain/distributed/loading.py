"""Models that ZeRO-3 shards when they are loaded, before `prepare`: drawn, and gathered for forward passes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import torch
from accelerate.utils import gather_object
from torch import nn

logger = logging.getLogger(__name__)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """A context for forward passes without gradients, before `prepare`, of a model that ZeRO-3 sharded at loading.

    Each layer (`_no_split_modules`) is gathered only while it runs; the parameters outside of layers, such as
    embeddings, are gathered throughout. So a process never holds the unsharded model. Every process must call, and run
    equally many forward passes.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    layers = _outermost(model, set(getattr(model, "_no_split_modules", None) or ()))
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    running: dict[nn.Module, Any] = {}

    def begin(layer: nn.Module, _: Any) -> None:
        running[layer] = GatheredParameters(list(layer.parameters()))
        running[layer].__enter__()

    def end(layer: nn.Module, *_: Any) -> None:
        running.pop(layer).__exit__(None, None, None)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(begin).remove)
            stack.callback(layer.register_forward_hook(end, always_call=True).remove)
        stack.enter_context(GatheredParameters([p for p in model.parameters() if id(p) not in inside]))
        yield


def _outermost(module: nn.Module, classes: set[str]) -> list[nn.Module]:
    """The modules of these classes that are in no other one of them."""
    if type(module).__name__ in classes:
        return [module]
    return [layer for child in module.children() for layer in _outermost(child, classes)]


def draw(make: Callable[[], nn.Module]) -> nn.Module:
    """`make()`, a model with new weights: also with ZeRO-3 they are drawn unsharded on every process and sharded by
    `prepare`, so that they are the same for every strategy. Every process must call.

    If the processes of a machine would fill more than half of its free memory with them, transformers draws and shards
    them module by module: from the same distributions, but with other random numbers.
    """
    from transformers.integrations import deepspeed

    if not deepspeed.is_deepspeed_zero3_enabled():
        return make()
    with unsharded_models():
        with torch.random.fork_rng(), torch.device("meta"):
            size = sum(parameter.nbytes for parameter in make().parameters())
        needed, free = size * int(os.environ.get("LOCAL_WORLD_SIZE", 1)), psutil.virtual_memory().available
        if all(gather_object([needed <= free / 2])):
            return make()
    logger.warning(
        "new weights are drawn in shards, since the processes of a machine would need %.1f GB of memory for unsharded "
        "ones: they differ from those without ZeRO-3", needed / 1e9,
    )  # fmt: skip
    return make()


@contextmanager
def unsharded_models() -> Iterator[None]:
    """Models created in this context are unsharded, also with ZeRO-3."""
    from transformers.integrations import deepspeed

    if not deepspeed.is_deepspeed_zero3_enabled():
        yield
        return
    config = deepspeed._hf_deepspeed_config_weak_ref()  # type: ignore[misc]
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed.set_hf_deepspeed_config(config)
