"""Models before `prepare`: loaded, drawn, and gathered for forward passes. ZeRO-3 shards them when they are loaded;
with FSDP2, and new ones with ZeRO-3, only the main process has their weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

AWAY = "weights_on_main_process"  # an attribute of models whose weights only the main process has


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """A context for forward passes without gradients, before `prepare`, of a model that ZeRO-3 sharded at loading, or
    whose weights only the main process has; those run on the device of this process.

    Each layer (`_no_split_modules`) is gathered only while it runs; the parameters outside of layers, such as
    embeddings, are gathered throughout. So a process never holds the unsharded model. Every process must call, and run
    equally many forward passes.
    """
    sharded = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    if not sharded and not is_away(model):
        yield
        return
    if is_away(model):
        _send_buffers(model)
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
    return _once(load, shapes) if _fsdp2() else load()


def _once(load: Callable[[], Any], shapes: Callable[[], Any]) -> Any:
    main = dist.get_rank() == 0
    model = load() if main else shapes()
    facts: list[Any] = [None]
    if main:
        types = {name: parameter.dtype for name, parameter in model.named_parameters()}
        facts = [
            (types, {key: getattr(model, key) for key in ("generation_config", "new_modules") if hasattr(model, key)})
        ]
    broadcast_object_list(facts)
    types, extra = facts[0]
    if not all(gather_object([types.keys() == dict(model.named_parameters()).keys()])):
        raise ValueError(
            f"the weights of {type(model).__name__} are not those that its configuration describes, so they cannot be "
            "sent to all processes (tie_word_embeddings?): correct config.json, or use ds_configs/zero2.yaml"
        )
    if not main:
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(types[name])
        for key, value in extra.items():
            setattr(model, key, value)
    setattr(model, AWAY, True)
    _send_buffers(model)
    return model


def _send_buffers(model: nn.Module) -> None:
    """Gives each process the buffers of the main one."""
    facts: list[Any] = [dict(model.named_buffers()) if dist.get_rank() == 0 else None]
    broadcast_object_list(facts)
    for name, buffer in facts[0].items() if dist.get_rank() else ():
        place, _, key = name.rpartition(".")
        model.get_submodule(place)._buffers[key] = buffer.cpu()


def _fsdp2() -> bool:
    """Whether this process is one of several under FSDP2."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return asked and dist.is_initialized() and dist.get_world_size() > 1


def shards_weights() -> bool:
    """Whether the strategy that was launched shards weights: ZeRO-3 or FSDP2."""
    from transformers.integrations import deepspeed

    return _fsdp2() or bool(deepspeed.is_deepspeed_zero3_enabled())


def arrive(model: nn.Module) -> None:
    """Prepares a model whose weights only the main process has for the strategy that sends them: ZeRO-3's shards are
    made here; for FSDP2, the parameters without weights get a place in memory of one number each, by which Accelerate
    tells them apart, until it replaces them by shards."""
    from transformers.integrations import deepspeed

    if not is_away(model):
        return
    _send_buffers(model)
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        vars(module).pop(AWAY, None)
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if id(parameter) not in made:
                    number = torch.zeros(1, dtype=parameter.dtype).expand(parameter.shape)
                    made[id(parameter)] = nn.Parameter(number, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
    if deepspeed.is_deepspeed_zero3_enabled():
        _shard(model, {id(parameter) for parameter in made.values()})


def _shard(model: nn.Module, empty: set[int]) -> None:
    """Sends one parameter at a time from the main process to all, which keep their shards of it (ZeRO-3). DeepSpeed
    moves nothing of a model that has shards, so the buffers are moved here."""
    from deepspeed.runtime.zero import Init
    from transformers.integrations import deepspeed

    shards = Init(module=nn.Module(), config_dict_or_path=deepspeed.deepspeed_config())  # as it treats a whole model

    def received() -> Iterator[nn.Parameter]:
        for parameter in model.parameters():
            values = torch.empty(parameter.shape, dtype=parameter.dtype) if id(parameter) in empty else parameter.data
            parameter.data = values.to(shards.dtype).contiguous()
            yield parameter

    shards._convert_to_zero_parameters(received())
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(shards.local_device)


def _outermost(module: nn.Module, classes: set[str]) -> list[nn.Module]:
    """The modules of these classes that are in no other one of them."""
    if type(module).__name__ in classes:
        return [module]
    return [layer for child in module.children() for layer in _outermost(child, classes)]


def draw(make: Callable[[], nn.Module]) -> nn.Module:
    """`make()`, a model with new weights, the same ones for every strategy. Every process must call. With ZeRO-3 and
    FSDP2 the main process alone draws them; `prepare` sends each process its shards, a parameter at a time."""

    def shapes() -> nn.Module:
        with torch.random.fork_rng(), torch.device("meta"):
            return make()

    sharded = shards_weights()
    with unsharded_models():
        drawn: nn.Module = _once(make, shapes) if sharded else make()
    return drawn


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
