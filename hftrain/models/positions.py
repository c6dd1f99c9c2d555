"""How many tokens a model has positions for."""

from __future__ import annotations

from typing import Any

from torch import nn

from hftrain.models.transformer.configuration import TransformerConfig


def count_positions(model: Any) -> tuple[int | None, int]:
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


def check_positions(model: Any, max_length: int) -> None:
    """Raises: ValueError, `max_length` is more than the model has positions for."""
    positions, unused = count_positions(model)
    if positions and max_length > positions:
        raise ValueError(
            f"max_length={max_length}, but the model has positions for {positions} tokens: lower it, or set "
            f"model_config.max_position_embeddings={max_length + unused} (of rotary positions, which have no table, "
            "any number will do)"
        )
