"""Processes that would train different runs are refused before they do, with what differs."""

import hashlib
import json
import platform
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from hftrain.config.nested import flatten_json


def require_agreement(accelerator: Accelerator, facts: Mapping[str, Any]) -> None:
    """Compares `facts` (of JSON values, or what has a `str`) between the processes; every one has to call.

    Raises:
        ValueError: on every process alike, with each value that differs and the ranks and hosts that have it.
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
