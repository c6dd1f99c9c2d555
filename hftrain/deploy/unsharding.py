"""Writes the weights of a sharded checkpoint as a model that plain `from_pretrained` loads, without a GPU and without
the processes that saved it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

import hftrain.models
from hftrain.data.files import ADAPTER, staged
from hftrain.data.sealed import seal
from hftrain.distributed import norm_of
from hftrain.models.load import DTYPES
from hftrain.models.saved import read_config
from hftrain.train import checkpoint

STATE = "state.json"


def is_sharded(folder: Path) -> bool:
    """Whether a folder is a checkpoint that several processes wrote."""
    return any(folder.glob(f"{checkpoint.SHARD}*.safetensors"))


def unshard(folder: Path, output: Path, *, dtype: str | None = None, max_shard_size: str = "5GB") -> str:
    """Writes the model, or the adapter, of the sharded checkpoint `folder` to `output`, its moving averages if it has
    them; returns a sentence on it. All weights are in memory at once.

    Every file of the checkpoint is verified before, and the written weights are read back and compared.

    Args:
        dtype: format of the written weights, for instance "bfloat16"; None: the model's.

    Raises:
        ValueError: a file is damaged (named, with another checkpoint that is good), `output` exists, the checkpoint
            lacks a weight, or its model's code is not in transformers or hftrain.
    """
    if output.exists():
        raise ValueError(f"{output} exists already: choose another --output, or delete it")
    saved = checkpoint.read(folder)
    adapter = (folder / ADAPTER).is_file()
    with staged(output) as stage:
        for name in saved.manifest["files"]:
            if name != STATE and not name.startswith(checkpoint.OURS):
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / name, stage / name)
        expected = _adapter(saved, stage) if adapter else _model(saved, stage, dtype, max_shard_size)
        checkpoint.check_export(stage, expected, adapters=["default"] if adapter else [])
        seal(stage)
    what = f"adapter (merge it with: hftrain merge {output})" if adapter else "model"
    return f"the {what} of step {saved.step:,}, {len(expected)} weights, equal to the checkpoint when read back"


def _values(saved: checkpoint.Saved, name: str) -> torch.Tensor:
    """A weight, or its moving average."""
    stored = next((f"{kind}.{name}" for kind in ("ema", "model") if f"{kind}.{name}" in saved.tensors), None)
    if stored is None:
        raise ValueError(f"{saved.folder} has no model.{name}: its config.json belongs to another model")
    return saved.tensors[stored]


def _model(saved: checkpoint.Saved, stage: Path, dtype: str | None, max_shard_size: str) -> list[Any]:
    config = read_config(saved.folder)
    architecture = (config.architectures or ["?"])[0]
    kind = getattr(transformers, architecture, None) or getattr(hftrain.models, architecture, None)
    if kind is None:
        raise ValueError(
            f"{saved.folder} contains a {architecture}, whose code is neither in transformers nor in hftrain: resume "
            "the run (--resume_from_checkpoint), which writes its model at the end"
        )
    stored: Any = DTYPES[dtype] if dtype else config.dtype or torch.float32
    with torch.device("meta"):
        model = kind._from_config(config, dtype=stored)
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    shapes = {id(tensor): tensor.shape for tensor in model.state_dict(keep_vars=True).values()}
    first = {id(tensor): name for name, tensor in (*model.named_buffers(), *model.named_parameters())}
    state: dict[str, torch.Tensor] = {}
    expected = []
    for key, aliases in names.items():
        values = _values(saved, first[key]).reshape(shapes[key])  # single numbers are trained as one of a row
        values = values.to(stored) if values.is_floating_point() else values
        state |= dict.fromkeys(aliases, values)
        expected.append((aliases, tuple(values.shape), norm_of(values)))
    model.save_pretrained(stage, state_dict=state, max_shard_size=max_shard_size)
    return expected


def _adapter(saved: checkpoint.Saved, stage: Path) -> list[Any]:
    import peft

    settings = peft.PeftConfig.from_pretrained(str(saved.folder))
    if str(settings.init_lora_weights).startswith("pissa"):
        raise ValueError(
            f"{saved.folder} contains a PiSSA adapter, which is exported together with its beginning: resume the run "
            "(--resume_from_checkpoint), which writes it at the end"
        )
    tensors = {name: _values(saved, name) for name in _trained(saved)}
    written = {checkpoint.on_disk(name, ["default"]): values for name, values in tensors.items()}
    save_file(written, stage / "adapter_model.safetensors", metadata={"format": "pt"})
    return [([name], tuple(values.shape), norm_of(values)) for name, values in tensors.items()]


def _trained(saved: checkpoint.Saved) -> Iterator[str]:
    return (name.removeprefix("model.") for name in saved.tensors if name.startswith("model."))
