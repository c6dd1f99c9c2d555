"""Learning rates that differ by the layer: lower where a pretrained model knows more, in its first layers."""

from collections.abc import Iterator

from torch import nn


def layer_rates(model: nn.Module, layer_decay: float, backbone: float) -> dict[str, float]:
    """Name of a parameter -> its share of the learning rate; {} if all have the whole.

    Layer-wise decay (Clark et al. 2020, section 3.2; Bao et al. 2022, BEiT): with L layers, those before the first one
    have `layer_decay` ** (L + 1), layer l = 1, ..., L has `layer_decay` ** (L + 1 - l), and what follows the last has
    1: norms, heads, and modules without pretrained weights. Layers are the members of the innermost lists of modules,
    in the order of the model.

    Args:
        backbone: further factor of the backbone: of a detector the part of that name, of other models all but the head.

    Raises:
        ValueError: the model has no layers, or no backbone.
    """
    if layer_decay == backbone == 1.0:
        return {}
    names = [name for name, _ in model.named_parameters()]
    depth = dict.fromkeys(names, 0)
    if layer_decay != 1.0:
        depth = dict(zip(names, depths(model, names), strict=True))
    inside = {name for name in names if "backbone" in name.split(".")} or body(model, names)
    if backbone != 1.0 and (not inside or len(inside) == len(names)):
        raise ValueError(f"backbone_rate: {type(model).__name__} has no part that is its backbone")
    return {name: layer_decay ** depth[name] * (backbone if name in inside else 1.0) for name in names}


def depths(model: nn.Module, names: list[str]) -> Iterator[int]:
    """How many layers away from the output each parameter is; 0 after the last one."""
    heads = tuple(f"{name}." for name in getattr(model, "new_modules", ()) or ())
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    inner = [name for name in lists if not any(other.startswith(f"{name}.") for other in lists)]
    prefixes = [f"{name}.{number}." for name in inner for number in range(len(lists[name]))]
    order: dict[str, int] = {}  # layer -> its number, from 1
    places = []
    for name in names:
        layer = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if layer is not None and not name.startswith(heads):
            order.setdefault(layer, len(order) + 1)
        places.append(None if name.startswith(heads) else len(order))
    if not order:
        raise ValueError(f"layer_decay: {type(model).__name__} has no list of layers")
    last = max(place for place, name in enumerate(names) if name.startswith(tuple(order)))
    for place, layer_number in enumerate(places):
        yield 0 if layer_number is None or place > last else len(order) + 1 - layer_number


def body(model: nn.Module, names: list[str]) -> set[str]:
    """The parameters of a model without those of its head."""
    prefix = getattr(model, "base_model_prefix", "")
    if prefix and hasattr(model, prefix):
        return {name for name in names if name.startswith(f"{prefix}.")}
    return {name for name in names if not name.startswith(("classifier.", "decoder."))}
