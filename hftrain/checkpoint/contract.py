"""The contract: what must be equal for two starts to be one run. JSON values, which the caller chooses."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any


def check_contract(saved: Mapping[str, Any], current: Mapping[str, Any], allow: Iterable[str]) -> list[str]:
    """Compares two contracts; returns a line for each difference that `allow` lets through.

    Nested keys are joined with dots ("model.d_ff"; "model" allows all of them). Numbers are compared as they are
    written: 1 is not 1.0, and 0.1 + 0.2 is not 0.3. Raises ValueError with both values of every other difference,
    or for a name in `allow` that is no key.
    """
    before, now, allow = flatten(saved), flatten(current), set(allow)
    parents = {key: {key, *(key[: dot.start()] for dot in re.finditer(r"\.", key))} for key in {**before, **now}}
    known = set().union(*parents.values())
    for name in allow - known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise ValueError(f"--resume_allow {name}: no such key; did you mean {nearest[0]}?")
    differences = {
        key: f"{key}: {before.get(key, 'absent')} when saved, {now.get(key, 'absent')} now"
        for key in parents
        if before.get(key) != now.get(key)
    }
    refused = [key for key in differences if not parents[key] & allow]
    if refused:
        lines = "\n".join(f"  {differences[key]}" for key in refused)
        names = ",".join([*sorted(allow), *refused])
        raise ValueError(f"not the run that was saved:\n{lines}\nSet them back, or go on with --resume_allow {names}")
    return [f"--resume_allow let through {line}" for line in differences.values()]


def flatten(contract: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{"a": {"b": 1.0}} -> {"a.b": "1.0"}. Raises ValueError for a value that JSON cannot hold."""
    flat: dict[str, str] = {}
    for key, value in contract.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            try:
                flat[f"{prefix}{key}"] = json.dumps(value, sort_keys=True)
            except TypeError as error:
                raise ValueError(f"contract key {prefix}{key}: {error}") from None
    return flat
