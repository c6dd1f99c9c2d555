"""Parts of a model that are not trained."""

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freezes the parameters that match a pattern; returns their names.

    A pattern is a sequence of whole words in a parameter's dotted name: "embeddings" or "encoder.layer.0". Each word
    may have wildcards ("*.bias"), and "0-3" means the numbers 0, 1, 2, 3.

    Raises:
        ValueError: a pattern matches nothing (the message has similar names), or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    frozen: set[str] = set()
    for pattern in patterns:
        matches = [name for name in parameters if _names(pattern.split("."), name.split("."))]
        if not matches:
            raise ValueError(f"freeze: {pattern!r} matches no part of the model{_near(pattern, list(parameters))}")
        frozen |= set(matches)
    if all(name in frozen or not parameter.requires_grad for name, parameter in parameters.items()):
        raise ValueError(f"freeze: {', '.join(patterns)} leaves nothing to train")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return sorted(frozen)


def narrow_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Stores the frozen weights of the linear layers under adapters in `dtype`, in which autocast multiplies with them.

    The results are the same, bit for bit; autocast would keep a copy in `dtype` of each of these weights from the
    forward to the backward pass, beside the weight. A weight that is also an embedding is not changed, nor is the base
    of DoRA, which computes with the weights themselves.
    """
    settings = getattr(model, "peft_config", None)
    if not settings or any(getattr(adapter, "use_dora", False) for adapter in settings.values()):
        return
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    others = {id(p) for m in model.modules() if not isinstance(m, nn.Linear) for p in m.parameters(recurse=False)}
    # rows of these weights are replaced by trained ones
    rows: list[Any] = [module for module in model.modules() if type(module).__name__ == "TrainableTokensLayer"]
    others |= {id(module.base_layer.weight) for module in rows}
    for parameter in {p for module in linear for p in module.parameters(recurse=False) if id(p) not in others}:
        if not parameter.requires_grad and parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(dtype)


def _names(pattern: list[str], name: list[str]) -> bool:
    return any(
        all(_fits(*pair) for pair in zip(pattern, name[start:], strict=False))
        for start in range(len(name) - len(pattern) + 1)
    )


def _fits(pattern: str, word: str) -> bool:
    numbers = re.fullmatch(r"(\d+)-(\d+)", pattern)
    if numbers:
        return word.isdigit() and int(numbers[1]) <= int(word) <= int(numbers[2])
    return fnmatchcase(word, pattern)


def _near(pattern: str, names: list[str]) -> str:
    parts = {".".join(words[start:end]) for name in names for words in [name.split(".")]
             for end in range(1, len(words) + 1) for start in range(end)}  # fmt: skip
    near = difflib.get_close_matches(pattern, sorted(parts), n=3)
    words = dict.fromkeys(word for name in names for word in name.split(".")[:2])
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else f"; it has {', '.join(words)}, ..."
