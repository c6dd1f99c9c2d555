"""A small model of the same kind, on which a trial takes a fraction of a second.

Its configuration is a copy of the model's: the same switches, heads of the same size, the same kinds of layers, but few
layers, few heads and a small vocabulary. Its weights are random. It is made on this process's CPU, also under ZeRO-3.
"""

import copy
import json
import logging
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hftrain.distributed import unsharded_models
from hftrain.losses import Batch, SummingHead
from hftrain.models.blocks import BLOCKS
from hftrain.train.trials.memory import as_it_was, same_randomness

logger = logging.getLogger(__name__)

VOCABULARY = 128
LONGEST = 96  # tokens of a row in a trial
ENOUGH = 2_000_000  # parameters: a model with fewer is tried at its own size
TOO_MANY = 60_000_000
SIZES = (
    (2, 2),
    (2, 4),
    (2, 8),
    (4, 2),
    (6, 2),
    (8, 2),
    (4, 8),
    (8, 8),
    (None, 2),
    (None, 8),
)  # layers (None: all), heads
LAYERS = {
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
    "num_decoder_layers",
}  # fmt: skip
WIDTHS = ("hidden_size", "d_model", "n_embd", "dim", "emb_dim")
FORWARD = {"d_ff", "n_inner", "hidden_dim", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"}
EXPERTS = 32


class Small(NamedTuple):
    """The model of a trial."""

    model: Any
    ids: torch.Tensor | None  # (V,) token of the original model -> its own token; None: the same ones


def tried_small(measure: Callable[..., Any]) -> Callable[..., Any]:
    """`measure(model, *lengths)` of a small model of the same kind, once for each class, configuration and lengths. The
    first length is the longest: all are scaled so that it is at most LONGEST.

    If no small model can be made, or it fails, the model itself is measured and restored.
    """
    known: dict[Any, Any] = {}

    @wraps(measure)
    def tried(model: PreTrainedModel, *lengths: int) -> Any:
        inner = base(model)
        settings = inner.config.to_dict() | {"attention": inner.config._attn_implementation}
        key = type(inner), type(inner.get_output_embeddings()), json.dumps(settings, default=str), lengths
        if key not in known:
            known[key] = _measured(measure, model, lengths)
        return known[key]

    return tried


def _measured(measure: Callable[..., Any], model: PreTrainedModel, lengths: tuple[int, ...]) -> Any:
    longest = max(lengths, default=1)
    scaled = [round(length * min(1.0, LONGEST / longest)) for length in lengths]
    problem: Exception | None = None
    for small in stand_ins(model, longest):
        try:
            with as_it_was(small.model):
                return measure(small.model, *scaled)
        except Exception as error:  # of the model's own code, which may need special sizes
            problem = error
    logger.warning(
        "%s is tried at its full size: a small model like it is impossible (%s)",
        type(base(model)).__name__,
        problem or "its class",
    )
    with as_it_was(model):
        return measure(model, *scaled)


def base(model: Any) -> Any:
    """The model without its adapters."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def stand_ins(model: PreTrainedModel, longest: int = 1) -> Iterator[Small]:
    """Small models of the kind of `model`, the smallest first, in fp32, without dropout, with an attention kernel that
    runs on CPUs; none for a class unknown to transformers.

    Args:
        longest: tokens of the longest row. If a model changes with the length of a row (longrope, dynamic
            NTK, sparse attention), the length of that change is scaled by LONGEST / `longest`.
    """
    inner = base(model)
    if not isinstance(inner, PreTrainedModel):
        return
    whole = sum(getattr(p, "ds_numel", p.numel()) for p in inner.parameters()) <= ENOUGH
    for layers, heads in SIZES if not whole else SIZES[:1]:
        config, ids = _small_config(inner.config, None if whole else (layers, heads), longest)
        if config is not None and (made := _made(inner, config)) is not None:
            yield Small(made, ids)


def _made(inner: PreTrainedModel, config: PreTrainedConfig) -> Any:
    """A model of the class of `inner`; None if that fails, or it lacks a kind of layer."""
    kernel = getattr(inner.config, "_attn_implementation", None)
    kernel = kernel if kernel in ("eager", "sdpa", BLOCKS) else None

    def make(device: str) -> Any:
        with torch.device(device):
            made = type(inner)._from_config(copy.deepcopy(config), dtype=torch.float32, attn_implementation=kernel)
        return made

    with same_randomness(), unsharded_models():
        torch.manual_seed(0)
        try:
            plan = make("meta")
            if sum(p.numel() for p in plan.parameters()) > TOO_MANY or not _kinds(inner) <= _kinds(plan):
                return None
            model = make("cpu")
        except Exception as error:  # incompatible sizes: others may work
            logger.debug("%s: %s", type(inner).__name__, error)
            return None
        _mix(model)
    if type(inner.get_output_embeddings()) is SummingHead:
        model.get_output_embeddings().__class__ = SummingHead
    return model


@torch.no_grad()
def _mix(model: nn.Module) -> None:
    """Adds noise to all weights: many models begin with zeros that would hide the effects that a trial looks for."""
    for parameter in model.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.add_(torch.randn_like(parameter), alpha=scale)


def _kinds(model: nn.Module) -> set[str]:
    """Names of the classes of its modules, without those added by adapters, quantization or hftrain."""
    foreign = ("torch.", "peft.", "bitsandbytes.", "hftrain.losses")
    return {type(m).__name__ for m in model.modules() if not type(m).__module__.startswith(foreign)}


def _small_config(
    config: PreTrainedConfig, size: tuple[int | None, int] | None, longest: int
) -> tuple[PreTrainedConfig | None, torch.Tensor | None]:
    """A copy of `size` (layers, heads; None: the original) and the map of tokens; None if so few layers cannot have
    each kind."""
    small = copy.deepcopy(config)
    if hasattr(small, "quantization_config"):
        del small.quantization_config
    for part in parts(small):
        for name, value in vars(part).items():
            if isinstance(value, float) and any(word in name for word in ("drop", "jitter")):
                setattr(part, name, 0.0)
        if hasattr(part, "use_cache"):
            part.use_cache = False
        if longest > LONGEST:
            _scale_positions(part, LONGEST / longest)
        if size is not None:
            if not _fewer_layers(part, size[0]):
                return None, None
            _narrow(part, size[1])
    return small, _few_tokens(small) if size is not None else None


def parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """The configuration and those nested in it."""
    yield config
    for value in list(vars(config).values()):
        if isinstance(value, PreTrainedConfig):
            yield from parts(value)


def drops(model: Any) -> bool:
    """Whether the model or its configuration names a probability of dropping something: then a step's randomness
    depends on its cut."""
    named = [item for part in parts(model.config) for item in vars(part).items()] if hasattr(model, "config") else []
    rates = [value for name, value in named if "drop" in name and isinstance(value, int | float)]
    rates += [module.p for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
    return any(rates)


def _fewer_layers(config: PreTrainedConfig, layers: int | None) -> bool:
    for name in LAYERS & vars(config).keys():
        depth = getattr(config, name)
        if layers is None or not isinstance(depth, int) or depth <= layers:
            continue
        for key, value in list(vars(config).items()):
            if not isinstance(value, list | tuple) or not value:
                continue
            if all(type(i) is int for i in value) and list(value) == sorted({*value}) and value[-1] < depth:
                kept: Any = [i for i in value if i < layers]  # layer numbers
                if not kept:
                    return False
            elif len(value) == depth:  # one entry for each layer
                kept = value[:layers]
                if {*map(repr, value)} != {*map(repr, kept)}:
                    return False
            else:
                continue
            setattr(config, key, kept)
        setattr(config, name, layers)
    return True


def _narrow(config: PreTrainedConfig, wanted: int) -> None:
    """Sets few heads of the original size, few experts, and the widths that follow. (Heads of another size would have
    other positions.)"""
    sizes = {name: value for name, value in vars(config).items() if type(value) is int and value > 0}
    width_name = next((name for name in WIDTHS if name in sizes), None)
    heads = {name: n for name, n in sizes.items() if name.endswith(("heads", "n_head"))}
    if width_name is None:
        return
    width, most = sizes[width_name], heads.get("num_attention_heads") or max(heads.values(), default=0)
    few = wanted if most % wanted == 0 else 1
    factor = most // few if most else max(1, width // (64 * wanted))
    narrow = width // factor
    if width % factor or sizes.get("head_dim", narrow // few) * most != width:
        narrow = -(-narrow // 16) * 16
    for name, value in sizes.items():
        if name in heads:
            setattr(config, name, max(1, value // factor))
        elif value == width and not any(
            word in name for word in ("max", "position", "vocab", "_id", "window", "block")
        ):
            setattr(config, name, narrow)
        elif name in FORWARD or "intermediate" in name:
            setattr(config, name, max(32, value // factor // 16 * 16))
        elif name.endswith(("position_embeddings", "n_positions")) and changes_with_length(config) is None:
            setattr(config, name, min(value, 4 * LONGEST))
        elif name.endswith("experts") and value > EXPERTS and value % EXPERTS == 0:
            setattr(config, name, EXPERTS)


def _few_tokens(config: PreTrainedConfig) -> torch.Tensor | None:
    """Reduces the vocabulary; the special tokens become its last ones, so that no other token is one of them."""
    fields = [(part, name, value) for part in parts(config) for name, value in [*vars(part).items()]]
    sizes = [(part, name, value) for part, name, value in fields if "vocab_size" in name and type(value) is int]
    size = max((value for *_, value in sizes), default=0)
    if size <= VOCABULARY:
        return None
    special: dict[int, int] = {}
    marks = [(part, name, value) for part, name, value in fields if name.endswith(("_token_id", "_token_index"))]
    for *_, value in marks:
        for token in value if isinstance(value, list) else [value]:
            if type(token) is int and token >= 0:
                special.setdefault(token, VOCABULARY - 1 - len(special))
    ids = torch.arange(max(size, *special, 0) + 1) % (VOCABULARY - len(special))
    for token, own in special.items():
        ids[token] = own
    for part, name, value in marks:
        if isinstance(value, list):
            setattr(part, name, [special.get(token, token) for token in value])
        elif value in special:
            setattr(part, name, special[value])
    for part, name, value in sizes:
        setattr(part, name, min(value, VOCABULARY))
    return ids


def tokens_of(model: PreTrainedModel) -> int:
    """The number of tokens in the model's vocabulary."""
    try:
        embeddings: Any = model.get_input_embeddings()
        return len(embeddings.weight)
    except (NotImplementedError, AttributeError):  # its embeddings have another form
        return getattr(model.config, "vocab_size", VOCABULARY)


def changes_with_length(config: PreTrainedConfig) -> str | None:
    """The kind of its rotary positions, if their frequencies depend on the longest row of a batch."""
    for part in parts(config):
        rope = getattr(part, "rope_parameters", None) or {}
        for settings in (rope, *(value for value in rope.values() if isinstance(value, dict))):
            kind = settings.get("rope_type") or ""
            if kind == "longrope" or "dynamic" in kind:
                return kind
    return None


def _scale_positions(config: PreTrainedConfig, factor: float) -> None:
    names = {"block_size", "expert_capacity"}  # for attention that is sparse only in long rows, and for experts
    rope = getattr(config, "rope_parameters", None) or {}
    if changes_with_length(config):
        names |= {"original_max_position_embeddings", "max_position_embeddings"}
    for place in (vars(config), rope, *(value for value in rope.values() if isinstance(value, dict))):
        for name in names & place.keys():
            if isinstance(place[name], int):
                place[name] = max(2, round(place[name] * factor))


def with_ids(batch: Batch, ids: torch.Tensor | None) -> Batch:
    """The batch with the tokens of a small model."""
    if ids is None:
        return batch

    def own(name: str, values: Any) -> Any:
        tokens = isinstance(values, torch.Tensor) and values.dtype == torch.int64 and "position" not in name
        if not tokens or not values.numel() or not VOCABULARY <= int(values.max()) < len(ids):
            return values
        return torch.where(values < 0, values, ids[values.clamp(min=0)])

    return {name: own(name, values) for name, values in batch.items()}
