"""Checks that tokenizer, model and lengths fit: an embedding for each token, positions for the longest text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from hftrain.models.transformer.configuration import TransformerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def count_positions(model: PreTrainedModel) -> tuple[int | None, int]:
    """The maximum tokens of a text (None: no limit), and the number of unused rows in the position table: RoBERTa and
    its relatives count from after the padding position, so two of `max_position_embeddings` are unused."""
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
    """The maximum tokens that the model and its tokenizer read."""
    limits = [count_positions(model)[0], tokenizer.model_max_length if tokenizer is not None else None]
    return min([sys.maxsize, *(limit for limit in limits if limit)])  # a tokenizer without a limit has 10^30


def embedding_rows(model: PreTrainedModel) -> int:
    """The number of tokens with an embedding, also if an adapter wraps the embeddings."""
    parts: Iterator[Any] = model.get_input_embeddings().modules()  # the first is the module itself
    return next(part.num_embeddings for part in parts if hasattr(part, "num_embeddings"))


def check_fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, **lengths: int) -> None:
    """Refuses a tokenizer of another model, and texts longer than the model can read.

    Args:
        tokenizer: None to check only the lengths against the model's positions.
        lengths: setting -> tokens.

    Raises:
        ValueError: the tokenizer has tokens without an embedding, or a length exceeds the model's positions.
    """
    if tokenizer is not None and len(tokenizer) > (rows := embedding_rows(model)):
        raise ValueError(
            f"the tokenizer has {len(tokenizer):,} tokens, but the model has only {rows:,} embeddings: choose the "
            "model's own tokenizer (tokenizer_name_or_path, model_name_or_path), or set model_config.vocab_size"
        )
    positions, unused = count_positions(model)
    for name, length in lengths.items():
        most = longest_text(model, tokenizer)
        if positions and length > positions:
            raise ValueError(
                f"{name}={length}, but the model has positions for only {min(positions, most)} tokens: lower {name}. "
                "For a new model, or one with rotary positions, you can set "
                f"model_config.max_position_embeddings={length + unused}"
            )
        if length > most:
            raise ValueError(
                f"{name}={length}, but the tokenizer allows only {most} tokens (its model_max_length): lower {name}"
            )
