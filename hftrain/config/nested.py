"""Nested settings and contracts, flat: keys are joined with dots."""

import json
from collections.abc import Callable, Mapping
from typing import Any


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"lora": {"r": 8}} -> {"lora.r": 8}. An empty mapping stays."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def flatten_json(nested: Mapping[str, Any], default: Callable[[object], str] | None = None) -> dict[str, str]:
    """{"a": {"b": 1.0}} -> {"a.b": "1.0"}.

    Args:
        default: the replacement for a value that JSON cannot represent.

    Raises:
        ValueError: JSON cannot represent a value, and there is no `default`.
    """
    texts = {}
    for key, value in flatten(nested).items():
        try:
            texts[key] = json.dumps(value, sort_keys=True, default=default)
        except TypeError as error:
            raise ValueError(f"contract key {key}: {error}") from None
    return texts
