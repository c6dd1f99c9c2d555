"""Kernels of other libraries in place of a model's layers, on GPUs: they round differently, and are faster."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hftrain.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = {"use_kernels": "kernels", "use_liger_kernel": "liger_kernel"}  # setting -> package


def check_kernels(config: TrainConfig, device: str) -> None:
    """Raises: ValueError, kernels that the device cannot run, or whose library is not installed."""
    for name, library in LIBRARIES.items():
        if not getattr(config, name):
            continue
        if device == "cpu":
            raise ValueError(f"{name}: its kernels are written for GPUs and this run is on a CPU: set it false")
        if find_spec(library) is None:
            raise ValueError(f"{name} needs the package {library}: pip install 'hftrain[kernels]', or set it false")


def use_kernels(model: nn.Module, config: TrainConfig) -> None:
    """Replaces the layers that `config` names, in place. The model, perhaps with adapters, is on its GPU.

    Liger replaces the classes of layers in transformers' modules too, so no small model of this kind can be tried on a
    CPU afterwards. Its own loss is left out: `hftrain.losses` sums over the step, and has `chunked_loss`.

    Raises:
        ValueError: a library has no kernels for this model.
    """
    inner: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
    if config.use_liger_kernel:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN, _apply_liger_kernel_to_instance

        kind = inner.config.model_type
        if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
            raise ValueError(f"use_liger_kernel: liger-kernel has no kernels for models of type {kind}: set it false")
        _apply_liger_kernel_to_instance(model=inner, cross_entropy=False, fused_linear_cross_entropy=False)
    if config.use_kernels:
        inner.set_use_kernels(True)
