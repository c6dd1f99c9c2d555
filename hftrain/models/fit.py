"""Whether tokenizer, model and lengths fit together: tokens with an embedding, positions for the longest text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from hftrain.models.transformer.configuration import TransformerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def count_positions(model: PreTrainedModel) -> tuple[int | None, int]:
    """Tokens that a text may have (None: any number), and the places in its table that no token of a text gets: RoBERTa
    and its kin count from behind the place of padding, so that of `max_position_embeddings` two are unused."""
    config = model.config
    if isinstance(config, TransformerConfig) and config.position_embedding_type != "learned":
        return None, 0
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:  # XLNet's is -1
        return None, 0
    tables = [
        module for name, module in model.named_modules() if "position" in name and isinstance(module, nn.Embedding)
    ]
    padded = [(table.num_embeddings, table.padding_idx + 1) for table in tables if table.padding_idx is not None]
    return min([most, *(rows - unused for rows, unused in padded)]), max((unused for _, unused in padded), default=0)


def longest_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> int:
    """Tokens that the model and its tokenizer read at most."""
    limits = [count_positions(model)[0], tokenizer.model_max_length if tokenizer is not None else None]
    return min([sys.maxsize, *(limit for limit in limits if limit)])  # a tokenizer without a limit says 10^30


def embedding_rows(model: PreTrainedModel) -> int:
    """Tokens that the model has embeddings for, also where an adapter is wrapped around them."""
    parts: Iterator[Any] = model.get_input_embeddings().modules()  # itself first
    return next(part.num_embeddings for part in parts if hasattr(part, "num_embeddings"))


def check_fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, **lengths: int) -> None:
    """Refuses a tokenizer of another model, and texts that are longer than the model reads.

    Args:
        tokenizer: None where only the lengths are checked against the model's positions.
        lengths: setting -> tokens.

    Raises:
        ValueError: the tokenizer has tokens without an embedding, or a length is more than the model has positions for.
    """
    if tokenizer is not None and len(tokenizer) > (rows := embedding_rows(model)):
        raise ValueError(
            f"the tokenizer has {len(tokenizer):,} tokens, but the model embeddings for {rows:,} only: it is not this "
            "model's (tokenizer_name_or_path, model_name_or_path), or set model_config.vocab_size"
        )
    positions, unused = count_positions(model)
    for name, length in lengths.items():
        most = longest_text(model, tokenizer)
        if positions and length > positions:
            raise ValueError(
                f"{name}={length}, but the model has positions for {min(positions, most)} tokens only: lower {name}. A "
                "new model, or one of rotary positions, takes "
                f"model_config.max_position_embeddings={length + unused}"
            )
        if length > most:
            raise ValueError(
                f"{name}={length}, but the tokenizer is for {most} tokens only (its model_max_length): lower {name}"
            )
