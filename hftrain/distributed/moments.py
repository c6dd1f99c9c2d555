"""Checks that a saved optimizer state fits the parameters."""

import math
from collections.abc import Mapping
from typing import Any

import torch


def misfits(
    optimizer: torch.optim.Optimizer, name: str, parameter: torch.Tensor, state: Mapping[str, torch.Tensor]
) -> list[str]:
    """The mistakes in a saved `state` of the parameter `name`, one line each: a kernel would read beyond a tensor that
    is too small, or fail at a missing key."""
    shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
    expected = state_shapes(optimizer, parameter, shape, state)
    if expected is None:  # a user's optimizer: values with as many dimensions as the parameter must have its shape
        expected = {k: shape if v.ndim == len(shape) and v.ndim else tuple(v.shape) for k, v in state.items()}
    problems = [f"optimizer.{name}.{key} is missing" for key in expected if key not in state]
    for key, value in state.items():
        if key not in expected:
            problems.append(f"optimizer.{name}.{key} is unknown to {type(optimizer).__name__}")
        elif tuple(value.shape) != expected[key]:
            problems.append(f"optimizer.{name}.{key} has shape {tuple(value.shape)}, not {expected[key]}")
    return problems


def state_shapes(
    optimizer: torch.optim.Optimizer, parameter: torch.Tensor, shape: tuple[int, ...], state: Mapping[str, torch.Tensor]
) -> dict[str, tuple[int, ...]] | None:
    """Keys and shapes of the state of `optimizer` for a parameter of `shape`; None for an unknown optimizer."""
    if type(optimizer).__module__.startswith("deepspeed"):  # runs with AdamW only
        group: dict[str, Any] = {"amsgrad": False}
    else:
        group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    keys: dict[str, tuple[int, ...]]
    if "ns_steps" in group:
        return {"momentum_buffer": shape}
    if "beta2_decay" in group:  # Adafactor
        keys = {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])} if len(shape) > 1 else {}
        return {"step": ()} | (keys or {"variance": shape})
    # Muon updates other parameters with AdamW
    has_muon = any("ns_steps" in other for other in getattr(optimizer, "param_groups", []))
    if isinstance(optimizer, torch.optim.Adam) or has_muon or type(optimizer).__module__.startswith("deepspeed"):
        keys = {"step": (), "exp_avg": shape, "exp_avg_sq": shape}
        return keys | ({"max_exp_avg_sq": shape} if group["amsgrad"] else {})
    if any(kind.__module__.startswith("bitsandbytes") for kind in type(optimizer).__mro__):
        keys = {"step": (), "state1": shape, "state2": shape}
        if "state1" in state and state["state1"].dtype == torch.uint8:  # in blocks of 256
            blocks = -(-math.prod(shape) // 256)
            keys |= {"qmap1": (256,), "qmap2": (256,), "absmax1": (blocks,), "absmax2": (blocks,)}
        return keys
    return None
