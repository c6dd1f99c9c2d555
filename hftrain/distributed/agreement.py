"""Processes that would train different runs are refused before they do, with what differs."""

import hashlib
import json
import platform
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object


def require_agreement(accelerator: Accelerator, facts: Mapping[str, Any]) -> None:
    """Compares `facts` (of JSON values, or what has a `str`) between the processes; every one has to call.

    Raises:
        ValueError: on every process alike, with each value that differs and the ranks and hosts that have it.
    """
    if accelerator.num_processes == 1:
        return
    flat = _flatten(facts)
    digest = hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()
    if len(set(gather_object([digest]))) == 1:
        return
    processes = gather_object([(platform.node(), flat)])
    lines = []
    for key in sorted({key for _, values in processes for key in values}):
        holders: dict[str, list[str]] = {}
        for rank, (host, values) in enumerate(processes):
            holders.setdefault(values.get(key, "absent"), []).append(f"rank {rank} (host {host})")
        if len(holders) > 1:
            lines.append(f"  {key}: " + "; ".join(f"{value} on {', '.join(who)}" for value, who in holders.items()))
    raise ValueError("the processes disagree, and would train different runs:\n" + "\n".join(lines))


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, sort_keys=True, default=str)
    return flat
