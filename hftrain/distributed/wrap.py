"""What a strategy has to be told of a model before and after it wraps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch import nn

from hftrain.distributed.step import zero_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def place(accelerator: Accelerator, model: nn.Module) -> None:
    """Moves a model to its device before it is wrapped, unless it will be cut up or was placed when it was loaded."""
    whole = accelerator.distributed_type != DistributedType.FSDP and zero_stage(accelerator) < 3
    if whole and not getattr(model, "is_quantized", False) and not hasattr(model, "hf_device_map"):
        model.to(accelerator.device)


def set_bucket_sizes(accelerator: Accelerator, model: nn.Module) -> None:
    """Fills in the sizes that a DeepSpeed file leaves "auto" where Accelerate cannot: it reads `hidden_size` of the
    model's configuration, which has none if the model is made of two (`EncoderDecoderModel`), or is no model of
    transformers. Here it is the widest embedding's or, without any, norm's."""
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


def check_gradients(accelerator: Accelerator, model: PreTrainedModel) -> None:
    """Refuses what DeepSpeed, and FSDP2 where layers are dropped, cannot do: processes exchange gradients in the order
    in which they come, and crash or hang where one has a gradient that another has not.

    Raises:
        ValueError: the model drops layers by chance, or has a module for each expert.
    """
    deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    if accelerator.num_processes == 1 or not (deepspeed or accelerator.distributed_type == DistributedType.FSDP):
        return
    settings = vars(model.config) if hasattr(model, "config") else {}
    dropping = [key for key, value in settings.items() if "layerdrop" in key and value]
    if dropping:
        raise ValueError(
            f"{type(model).__name__} drops layers by chance ({dropping[0]}={settings[dropping[0]]}), others on each "
            f"process, which ZeRO and FSDP cannot do: set model_config.{dropping[0]} 0, or use DDP"
        )
    for name, module in model.named_modules() if deepspeed else ():
        each = isinstance(module, nn.ModuleList | nn.ModuleDict) and "expert" in name.rpartition(".")[2]
        if each and any(parameter.requires_grad for parameter in module.parameters()):
            raise ValueError(
                f"{name} has a module for each expert, and one that no token of a batch is sent to gets no gradient, "
                "which ZeRO cannot do: use DDP or FSDP2, or freeze the experts"
            )


def check_sharing(accelerator: Accelerator, model: nn.Module) -> None:
    """Refuses what Accelerate 1.15 and torch 2.13 cannot cut up with FSDP2, which they say in the middle of a run.

    Raises:
        ValueError: a parameter would be in two FSDP groups; a buffer stands among the weights.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    way_out = "launch with --use_deepspeed --zero_stage 3 (ds_configs/zero3.yaml), which cuts up the same"
    plugin = accelerator.state.fsdp_plugin
    if shared := shared_between_groups(model, fsdp2_prepare_auto_wrap_policy(plugin, model)):
        raise ValueError(
            f"FSDP2 cannot cut up {type(model).__name__}: Accelerate puts {' = '.join(shared)} into two groups, which "
            f"torch does not take; {way_out}"
        )
    buffers = sorted(model.state_dict().keys() - dict(model.named_parameters(remove_duplicate=False)).keys())
    if buffers and plugin.cpu_ram_efficient_loading:
        raise ValueError(
            f"FSDP2 cannot load {type(model).__name__} with fsdp_cpu_ram_efficient_loading, as {buffers[0]} is a "
            f"buffer: set that to false in the launch file, or {way_out}"
        )


def shared_between_groups(model: nn.Module, is_layer: Callable[[nn.Module], bool] | None) -> list[str]:
    """Names of the first parameter that two of Accelerate's FSDP groups would have (`fsdp2_prepare_model`); [] if none.

    A group is each layer, the input embedding, the output embedding (one group if they share a weight), and what is
    left. Embeddings are a group even where a layer has them, as BertEmbeddings has, which Accelerate takes for a layer.
    """
    embeddings = [get() for name in ("input", "output") if (get := getattr(model, f"get_{name}_embeddings", None))]
    embeddings = [module for module in embeddings if module is not None]
    tied = len({id(getattr(module, "weight", None)) for module in embeddings}) == 1
    groups: dict[int, set[int]] = {}
    names: dict[int, list[str]] = {}

    def walk(module: nn.Module, path: str, group: int) -> None:
        mine = {group}
        if path and is_layer is not None and is_layer(module):
            mine = {id(module)}
        elif any(module is each for each in embeddings):
            mine = {id(embeddings[0] if tied else module), group} - {id(model)}
        for name, parameter in module.named_parameters(recurse=False):
            groups.setdefault(id(parameter), set()).update(mine)
            names.setdefault(id(parameter), []).append(path + name)
        for name, child in module.named_children():
            walk(child, f"{path}{name}.", next(iter(mine)))

    walk(model, "", id(model))
    return next((names[key] for key, members in groups.items() if len(members) > 1), [])


def expect_missing_gradients(accelerator: Accelerator, model: Any) -> None:
    """Lets a process take part in the exchange of a gradient that only others have: of an expert that none of its
    tokens was sent to."""
    if accelerator.distributed_type == DistributedType.FSDP:
        model.set_reduce_scatter_unused_params(True)
