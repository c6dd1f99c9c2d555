"""Preparation and checks of a model before and after a strategy wraps it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from hftrain.distributed.groups import fsdp_groups
from hftrain.distributed.step import zero_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FOUR_BITS = (
    "weights in 4 bits (load_in_4bit) do not work with ZeRO-3 and FSDP2, which cannot shard them: launch with "
    "ds_configs/ddp.yaml or zero2.yaml, or train adapters on weights in bf16 (bf16, use_peft)"
)


def place(accelerator: Accelerator, model: nn.Module) -> None:
    """Moves a model to its device before it is wrapped, unless it will be sharded or was placed when it was loaded."""
    unsharded = accelerator.distributed_type != DistributedType.FSDP and zero_stage(accelerator) < 3
    if unsharded and not getattr(model, "is_quantized", False) and not hasattr(model, "hf_device_map"):
        model.to(accelerator.device)


def set_bucket_sizes(accelerator: Accelerator, model: nn.Module) -> None:
    """Fills in sizes that a DeepSpeed file leaves "auto" and Accelerate cannot fill in: Accelerate needs `hidden_size`
    in the model's configuration, which is missing if the model consists of two (`EncoderDecoderModel`) or is not a
    model of transformers. Here it is the widest embedding's or, without embeddings, norm's."""
    plugin, config = accelerator.state.deepspeed_plugin, getattr(model, "config", None)
    if plugin is None or hasattr(config, "hidden_size") or hasattr(config, "hidden_sizes"):
        return
    widths = [module.embedding_dim for module in model.modules() if isinstance(module, nn.Embedding)]
    widths = widths or [getattr(p, "ds_shape", p.shape)[-1] for p in model.parameters() if p.dim()]
    sizes = {
        "reduce_bucket_size": max(widths) ** 2,
        "stage3_prefetch_bucket_size": int(0.9 * max(widths) ** 2),
        "stage3_param_persistence_threshold": 10 * max(widths),
    }
    settings = plugin.deepspeed_config["zero_optimization"]
    settings |= {key: size for key, size in sizes.items() if settings.get(key) == "auto"}


def sum_in_fp32(accelerator: Accelerator) -> None:
    """Lets ZeRO and FSDP2 add up gradients in fp32, over micro-batches and processes, if the model computes in half
    precision; by default they do so in half precision. FSDP2 also returns the outputs unrounded: Accelerate's policy
    would round a summed loss of 4954.72 to 4960. A DeepSpeed file that sets these types decides."""
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None and accelerator.mixed_precision == "bf16":
        plugin.deepspeed_config.setdefault("communication_data_type", "fp32")
        plugin.deepspeed_config.setdefault("data_types", {}).setdefault("grad_accum_dtype", "fp32")
    if accelerator.distributed_type == DistributedType.FSDP and accelerator.mixed_precision != "no":
        policy = accelerator.state.fsdp_plugin.mixed_precision_policy
        accelerator.state.fsdp_plugin.mixed_precision_policy = replace(
            policy, reduce_dtype=torch.float32, output_dtype=None
        )


@contextmanager
def unsaved_buffers(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """With FSDP2, all buffers count as not saved: Accelerate 1.15 sends weights as shards, and fails for a buffer among
    them, which has none."""
    saved: list[tuple[nn.Module, str]] = []
    for module in model.modules() if accelerator.distributed_type == DistributedType.FSDP else ():
        names = module._buffers.keys() - module._non_persistent_buffers_set
        saved += [(module, name) for name in names]
        module._non_persistent_buffers_set |= names
    yield
    for module, name in saved:
        module._non_persistent_buffers_set.discard(name)


def check_gradients(accelerator: Accelerator, model: PreTrainedModel) -> None:
    """Refuses models that DeepSpeed (and FSDP2, for dropped layers) cannot train: processes exchange gradients in the
    order of their computation, and crash or hang if only some of them have a gradient.

    Raises:
        ValueError: the model drops random layers, or has a separate module for each expert.
    """
    deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    if accelerator.num_processes == 1 or not (deepspeed or accelerator.distributed_type == DistributedType.FSDP):
        return
    settings = vars(model.config) if hasattr(model, "config") else {}
    dropping = [key for key, value in settings.items() if "layerdrop" in key and value]
    if dropping:
        raise ValueError(
            f"{type(model).__name__} drops random layers ({dropping[0]}={settings[dropping[0]]}), different ones on "
            f"each process, which ZeRO and FSDP do not support: set model_config.{dropping[0]} 0, or use DDP"
        )
    for name, module in model.named_modules() if deepspeed else ():
        per_expert = isinstance(module, nn.ModuleList | nn.ModuleDict) and "expert" in name.rpartition(".")[2]
        if per_expert and any(parameter.requires_grad for parameter in module.parameters()):
            raise ValueError(
                f"{name} has a module for each expert, and an expert without tokens in a batch gets no gradient, which "
                "ZeRO does not support: use DDP or FSDP2, or freeze the experts"
            )


def give_dimensions(model: nn.Module) -> None:
    """Makes each parameter that is a single number a tensor of one element, which can be sharded, in a model that
    computes the same with it (by broadcasting). `single_numbers` names them for an export, which has their old shape.

    Args:
        model: the model that is exported, without wrappers.
    """
    names = frozenset(name for name, parameter in model.named_parameters() if not parameter.ndim)
    for name in names:
        module, _, own = name.rpartition(".")
        parameter = model.get_parameter(name)
        setattr(model.get_submodule(module), own, nn.Parameter(parameter.data.reshape(1), parameter.requires_grad))
    model.single_numbers = names  # type: ignore[assignment]


def single_numbers(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that are exported without a dimension."""
    return getattr(model, "single_numbers", frozenset())


def check_sharing(accelerator: Accelerator, model: nn.Module) -> None:
    """Refuses models that cannot be sharded, which would fail during the run: with FSDP2, if its groups would share a
    parameter; with ZeRO-3 and FSDP2, in 4 bits, since bitsandbytes stores them as bytes without a shape; with DeepSpeed
    0.19 and FSDP2, with a single number as a parameter.

    Raises:
        ValueError: a parameter would be in two FSDP groups or has no dimension, or the weights are in 4 bits.
    """
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        scalar = next((name for name, parameter in model.named_parameters() if not parameter.ndim), None)
        if scalar is not None:
            raise ValueError(
                f"ZeRO and FSDP2 cannot train {type(model).__name__}: its parameter {scalar} is a single number, "
                "without a dimension, which they do not support: use DDP (ds_configs/ddp.yaml)"
            )
    sharded = accelerator.distributed_type == DistributedType.FSDP or zero_stage(accelerator) == 3
    if sharded and getattr(model, "is_loaded_in_4bit", False):
        raise ValueError(FOUR_BITS)
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    fsdp_groups(model, accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap)


def expect_missing_gradients(accelerator: Accelerator, model: Any) -> None:
    """Lets a process take part in the exchange of a gradient that only others have: that of an expert that got none of
    its tokens."""
    if accelerator.distributed_type == DistributedType.FSDP:
        model.set_reduce_scatter_unused_params(True)
