"""The export of a trained model: what plain `from_pretrained` loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from hftrain import distributed
from hftrain.data.files import share_weights
from hftrain.distributed import Piece
from hftrain.train.checkpoint import check_export
from hftrain.train.state import Processor


def export(accelerator: Accelerator, model: nn.Module, processor: Processor | None, folder: Path) -> None:
    """Writes files for plain `from_pretrained`, reads them back and compares; every process calls, the main one writes.
    Raises: ValueError, the written model differs from the trained one."""
    weights = distributed.weights(accelerator, model)
    state_dict = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        _write(accelerator.unwrap_model(model), processor, folder, state_dict, weights)


def exporter(
    accelerator: Accelerator, model: nn.Module, processor: Processor | None, pieces: Iterable[Piece], *, averaged: bool
) -> Callable[[Path], None]:
    """A function that does the same from unsharded copies of the trained weights, in any thread of the main process.

    Args:
        averaged: exports the moving averages.
    """
    module = accelerator.unwrap_model(model)
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    copies: dict[str, torch.Tensor] = {}
    for piece in pieces:
        kind, _, name = piece.name.partition(".")
        if kind == "model":
            copies.setdefault(name, piece.values)
        elif kind == "ema" and averaged:
            copies[name] = piece.values.to(trained[name].dtype)
    tensors = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    by_id = {id(tensor): copies[name] for name, tensor in tensors.items() if name in copies}
    state_dict = {
        key: by_id[id(value)] if id(value) in by_id else _unchanging(value)
        for key, value in module.state_dict(keep_vars=True).items()
    }

    def write(folder: Path) -> None:
        _write(module, processor, folder, state_dict, distributed.weights(accelerator, model, copies))

    return write


def _unchanging(value: Any) -> Any:
    """A frozen parameter, or a copy of a buffer."""
    if isinstance(value, nn.Parameter) or not isinstance(value, torch.Tensor):
        return value
    return value.detach().clone()


def _write(
    module: Any,
    processor: Processor | None,
    folder: Path,
    state_dict: Mapping[str, Any],
    weights: Iterable[distributed.Weight],
) -> None:
    numbers = distributed.single_numbers(module)
    state_dict = {name: value.reshape(()) if name in numbers else value for name, value in state_dict.items()}
    weights = [weight._replace(shape=()) if numbers.issuperset(weight.names) else weight for weight in weights]
    module.save_pretrained(folder, state_dict=state_dict)
    if hasattr(module, "peft_config") and getattr(module, "generation_config", None) is not None:
        module.generation_config.save_pretrained(folder)  # saving an adapter omits it
    heads = any(adapter.modules_to_save for adapter in getattr(module, "peft_config", {}).values())
    if heads or getattr(module.config, "hftrain", None):
        module.config.save_pretrained(folder)  # it has the meaning of the head, or what `remember` wrote
    if processor is not None:
        processor.save_pretrained(folder)
    share_weights(folder)
    check_export(folder, weights, adapters=getattr(module, "peft_config", {}))


def export_settings(module: Any, processor: Processor | None, folder: Path) -> None:
    """Writes what `export` writes, but for the weights."""
    if not hasattr(module, "peft_config"):  # as `save_pretrained` of a model does
        module.config.architectures = [type(module).__name__.removeprefix("FSDP")]
    module.config.save_pretrained(folder)
    if getattr(module, "generation_config", None) is not None:
        module.generation_config.save_pretrained(folder)
    for adapter in getattr(module, "peft_config", {}).values():
        adapter.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
