"""Augmentation: random changes of training texts."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from hftrain.data.noise import drop_tokens, span_corruption, swap_tokens
from hftrain.tasks.classification.config import ClassificationConfig


def augmentation(
    config: ClassificationConfig, tokenizer: PreTrainedTokenizerBase
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]] | None:
    """A function: example -> example with tokens dropped and swapped (Wei & Zou 2019, EDA) and spans replaced by a mask
    token each (text infilling of Lewis et al. 2020, BART, section 2.2), by `token_drop`, `token_swap` and `span_noise`;
    None if all are 0.

    Special tokens keep their places, and the texts of a pair stay separate. It uses NumPy's global generator, which
    `fit` seeds for each example of a step.

    Raises:
        ValueError: `span_noise` is set, but the tokenizer has neither a mask token nor an unknown one.
    """
    if not (config.token_drop or config.token_swap or config.span_noise):
        return None
    fixed = list(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id, tokenizer.mask_token_id})
    mask = mask_token(tokenizer) if config.span_noise else -1

    def augment(example: Mapping[str, Any]) -> Mapping[str, Any]:
        ids = np.asarray(example["input_ids"])
        types = np.asarray(example.get("token_type_ids", np.zeros_like(ids)))
        free = ~np.isin(ids, fixed)
        edges = np.flatnonzero(np.diff(free.astype(np.int8)) | np.diff(types)) + 1
        pieces = []
        for run, kinds, movable in zip(*(np.split(array, edges) for array in (ids, types, free)), strict=True):
            changed = noisy(run, config, mask) if movable[0] else run
            pieces.append((changed, np.full(len(changed), kinds[0])))
        ids, types = (np.concatenate(part) for part in zip(*pieces, strict=True))
        return {**example, "input_ids": ids} | ({"token_type_ids": types} if "token_type_ids" in example else {})

    return augment


def noisy(tokens: np.ndarray, config: ClassificationConfig, mask: int) -> np.ndarray:
    """(T,) tokens of one text -> its noisy version, with at least one token."""
    if config.token_drop:
        tokens = drop_tokens(tokens, config.token_drop)
    if config.token_swap:
        tokens = swap_tokens(tokens, config.token_swap)
    if config.span_noise and len(tokens) > 1:
        masks = [mask] * len(tokens)
        hidden, _ = span_corruption(tokens, sentinels=masks, eos_token_id=-1, density=config.span_noise)
        tokens = hidden[:-1]  # without the end token
    return tokens


def mask_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that replaces a span: the mask token, or else the unknown token, which byte-level vocabularies never
    use.

    Raises:
        ValueError: there is neither.
    """
    token = tokenizer.unk_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    if token is None:
        raise ValueError(f"span_noise: {type(tokenizer).__name__} has neither a mask token nor an unknown one")
    return token
