"""The groups of weights that FSDP2 gathers at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

GETTERS = ("get_input_embeddings", "get_output_embeddings")


class Groups(NamedTuple):
    """Each layer is a group, so is each embedding, or both in one if they share a weight, and the other parameters."""

    layers: list[str]  # names of classes
    embeddings: bool  # whether they are groups of their own; otherwise they belong to the other parameters


def fsdp_groups(model: nn.Module, layers: Sequence[str] | None) -> Groups:
    """Groups of which no two have a parameter in common, which torch 2.13 does not support.

    Args:
        layers: names of classes; by default those that the model names, without those that contain an embedding.

    Raises:
        ValueError: such groups are impossible.
    """
    embeddings = [module for module in embeddings_of(model).values() if module is not None]
    if layers is None:
        modules, named = list(model.modules()), set(getattr(model, "_no_split_modules", None) or ())
        around = {type(m).__name__ for m in modules if any(part is e for part in m.modules() for e in embeddings)}
        layers = sorted(named & {type(module).__name__ for module in modules} - around)
    shared: list[str] = []
    for apart in (True, False):
        common = shared_between_groups(model, layers, embeddings if apart else [])
        if not common:
            return Groups(list(layers), apart)
        shared = shared or common
    raise ValueError(
        f"FSDP2 cannot shard {type(model).__name__}: {' = '.join(shared)} would be in two groups, which torch does not "
        "support; launch with --use_deepspeed --zero_stage 3 (ds_configs/zero3.yaml), which shards the same"
    )


def embeddings_of(model: nn.Module) -> dict[str, nn.Module | None]:
    """The input and the output embedding by the name of the method that returns it; None if the model has none."""
    answers: dict[str, nn.Module | None] = dict.fromkeys(GETTERS)
    for getter in GETTERS:
        try:
            module = getattr(model, getter, lambda: None)()
        except NotImplementedError:  # of models that read images or waves
            continue
        answers[getter] = module if isinstance(module, nn.Module) else None
    return answers


@contextmanager
def grouped(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """A context in which Accelerate prepares a model for FSDP2 in its `fsdp_groups`. Accelerate 1.15 itself would make
    groups of embeddings inside of layers, and fails if a model does not say what its embeddings are."""
    if accelerator.distributed_type != DistributedType.FSDP:
        yield
        return
    plugin = accelerator.state.fsdp_plugin
    given = plugin.transformer_cls_names_to_wrap
    groups = fsdp_groups(model, given)
    plugin.transformer_cls_names_to_wrap = groups.layers
    for getter, module in embeddings_of(model).items():
        vars(model)[getter] = partial(lambda answer: answer, module if groups.embeddings else None)
    try:
        yield
    finally:
        plugin.transformer_cls_names_to_wrap = given
        for getter in GETTERS:
            vars(model).pop(getter)


def shared_between_groups(model: nn.Module, layers: Sequence[str], embeddings: Iterable[nn.Module]) -> list[str]:
    """Names of the first parameter that two of Accelerate's groups would have (`fsdp2_prepare_model`); [] if none.

    Args:
        layers: names of the classes of layers.
        embeddings: those that are groups of their own.
    """
    embeddings = list(embeddings)
    tied = len({id(getattr(module, "weight", None)) for module in embeddings}) == 1
    groups: dict[int, set[int]] = {}
    names: dict[int, list[str]] = {}

    def walk(module: nn.Module, path: str, group: int) -> None:
        mine = {group}
        if path and type(module).__name__ in layers:
            mine = {id(module)}
        elif any(module is embedding for embedding in embeddings):
            mine = {id(embeddings[0] if tied else module), group} - {id(model)}
        for name, parameter in module.named_parameters(recurse=False):
            groups.setdefault(id(parameter), set()).update(mine)
            names.setdefault(id(parameter), []).append(path + name)
        for name, child in module.named_children():
            walk(child, f"{path}{name}.", next(iter(mine)))

    walk(model, "", id(model))
    return next((names[key] for key, members in groups.items() if len(members) > 1), [])
