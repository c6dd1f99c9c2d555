"""Refuses processes that would train different runs, and names the differences."""

import hashlib
import json
import platform
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from hftrain.config.nested import flatten_json


def require_agreement(accelerator: Accelerator, facts: Mapping[str, Any]) -> None:
    """Compares `facts` (JSON values, or values with a `str`) between the processes; every process must call.

    Raises:
        ValueError: on all processes, with each value that differs and the ranks and hosts that have it.
    """
    if accelerator.num_processes == 1:
        return
    flat = flatten_json(facts, default=str)
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
