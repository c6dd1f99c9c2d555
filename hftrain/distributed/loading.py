"""Models before `prepare`: loaded, drawn, and gathered for forward passes. ZeRO-3 shards them when they are loaded;
with FSDP2 only the main process has their weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

logger = logging.getLogger(__name__)
AWAY = "weights_on_main_process"  # an attribute of models whose weights only the main process has


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """A context for forward passes without gradients, before `prepare`, of a model that ZeRO-3 sharded at loading, or
    whose weights only the main process has (FSDP2); those run on the device of this process.

    Each layer (`_no_split_modules`) is gathered only while it runs; the parameters outside of layers, such as
    embeddings, are gathered throughout. So a process never holds the unsharded model. Every process must call, and run
    equally many forward passes.
    """
    sharded = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    if not sharded and not is_away(model):
        yield
        return
    layers = _outermost(model, set(getattr(model, "_no_split_modules", None) or ()))
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    running: dict[nn.Module, Any] = {}

    def gather(modules: list[nn.Module], left_out: set[int]) -> Any:
        if not sharded:
            return _lent(modules, left_out)
        from deepspeed.runtime.zero import GatheredParameters

        return GatheredParameters([p for part in modules for p in part.parameters() if id(p) not in left_out])

    def begin(layer: nn.Module, _: Any) -> None:
        running[layer] = gather([layer], set())
        running[layer].__enter__()

    def end(layer: nn.Module, *_: Any) -> None:
        running.pop(layer).__exit__(None, None, None)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(begin).remove)
            stack.callback(layer.register_forward_hook(end, always_call=True).remove)
        stack.enter_context(gather([model], inside))
        yield


@contextmanager
@torch.no_grad()
def _lent(modules: list[nn.Module], left_out: set[int]) -> Iterator[None]:
    """Sends the parameters of these modules from the main process to all, and puts them and the buffers on the device
    of each process; afterwards all are again where they were."""
    device, made = PartialState().device, dict[int, Any]()
    before: list[tuple[dict[str, Any], str, Any]] = []
    for module in [child for part in modules for child in part.modules()]:
        for name, parameter in module._parameters.items():
            if parameter is None or id(parameter) in left_out:
                continue
            if id(parameter) not in made:
                values = (
                    torch.empty_like(parameter, device=device) if parameter.is_meta else parameter.detach().to(device)
                )
                dist.broadcast(values, src=0)
                made[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
            before.append((module._parameters, name, parameter))
        before += [(module._buffers, name, buffer) for name, buffer in module._buffers.items() if buffer is not None]
    for place, name, tensor in before:
        place[name] = made[id(tensor)] if id(tensor) in made else tensor.to(device)
    try:
        yield
    finally:
        for place, name, tensor in before:
            place[name] = tensor


def is_away(model: nn.Module) -> bool:
    """Whether only the main process has the weights of a model. The answer is the same on every process."""
    return any(AWAY in vars(module) for module in model.modules())


def load_once(load: Callable[[], Any], shapes: Callable[[], Any]) -> Any:
    """`load()`; with FSDP2 on the main process alone, and `shapes()` on the others, which is the same model on the meta
    device. Buffers and the settings of generation are those of the main process. Every process must call; `prepare`
    sends each process its shards.
    """
    if not _fsdp2():
        return load()
    main = dist.get_rank() == 0
    model = load() if main else shapes()
    facts: list[Any] = [None]
    if main:
        types = {name: parameter.dtype for name, parameter in model.named_parameters()}
        extra = {key: getattr(model, key) for key in ("generation_config", "new_modules") if hasattr(model, key)}
        facts = [(types, dict(model.named_buffers()), extra)]
    broadcast_object_list(facts)
    types, buffers, extra = facts[0]
    if not all(gather_object([types.keys() == dict(model.named_parameters()).keys()])):
        raise ValueError(
            f"the weights of {type(model).__name__} are not those that its configuration describes, so FSDP2 cannot "
            "send them to all processes (tie_word_embeddings?): correct config.json, or use ds_configs/zero3.yaml"
        )
    if not main:
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(types[name])
        for name, buffer in buffers.items():
            place, _, key = name.rpartition(".")
            model.get_submodule(place)._buffers[key] = buffer.cpu()
        for key, value in extra.items():
            setattr(model, key, value)
    setattr(model, AWAY, True)
    return model


def _fsdp2() -> bool:
    """Whether this process is one of several under FSDP2."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return asked and dist.is_initialized() and dist.get_world_size() > 1


def arrive(model: nn.Module) -> None:
    """Gives the parameters without weights a place in memory of one number each, by which Accelerate tells them apart,
    until FSDP2 replaces them by shards."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        vars(module).pop(AWAY, None)
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if id(parameter) not in made:
                    number = torch.zeros(1, dtype=parameter.dtype).expand(parameter.shape)
                    made[id(parameter)] = nn.Parameter(number, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]


def _outermost(module: nn.Module, classes: set[str]) -> list[nn.Module]:
    """The modules of these classes that are in no other one of them."""
    if type(module).__name__ in classes:
        return [module]
    return [layer for child in module.children() for layer in _outermost(child, classes)]


def draw(make: Callable[[], nn.Module], *, once: bool = True) -> nn.Module:
    """`make()`, a model with new weights, the same ones for every strategy. Every process must call. With ZeRO-3 they
    are drawn unsharded on every process and sharded by `prepare`; with FSDP2 and `once`, the main process alone draws
    them (`load_once`).

    If the processes of a machine would fill more than half of its free memory with them, transformers draws and shards
    them module by module: from the same distributions, but with other random numbers.
    """
    from transformers.integrations import deepspeed

    def shapes() -> nn.Module:
        with torch.random.fork_rng(), torch.device("meta"):
            return make()

    if not deepspeed.is_deepspeed_zero3_enabled():
        drawn: nn.Module = load_once(make, shapes) if once else make()
        return drawn
    with unsharded_models():
        size = sum(parameter.nbytes for parameter in shapes().parameters())
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
