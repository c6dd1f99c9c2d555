"""Batches for causal language models, also of documents packed into rows.

Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain import text
from hftrain.losses import IGNORE, Batch
from hftrain.models.fit import check_fit

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def collate_causal(
    examples: Sequence[Mapping[str, Any]], *, pad_token_id: int, pad_to_multiple_of: int = 1, flat: bool = False
) -> Batch:
    """Examples {"input_ids"} or {"input_ids", "labels"} as rows, padded on the right, which no token attends to.

    Packs, which have "position_ids", get these and no attention mask: this makes transformers, and our own
    model, separate the documents of a row. Padding has position 0: each of its tokens is a separate document.

    Args:
        flat: all packs in one row, as the flash attention kernels need it (`wants_flat`).

    Returns:
        int64 (B, T): input_ids, labels (-100 at padding), and attention_mask or position_ids. The labels are not
        shifted; `causal_language_model` does that.
    """
    columns = {name: [example[name] for example in examples] for name in examples[0]}
    columns.setdefault("labels", columns["input_ids"])
    packed = "position_ids" in columns
    if packed and flat:
        columns = {name: [np.concatenate(rows)] for name, rows in columns.items()}
    fill = {"input_ids": pad_token_id, "labels": IGNORE, "position_ids": 0}
    batch = {name: text.pad(columns[name], fill[name], pad_to_multiple_of) for name in fill if name in columns}
    return (
        batch if packed else batch | {"attention_mask": text.attention_mask(columns["input_ids"], pad_to_multiple_of)}
    )


def causal_lengths(examples: Sequence[Any]) -> np.ndarray:
    """(N, 1) int64: tokens of each example, of packs, of a `datasets.Dataset`, or of a list."""
    if hasattr(examples, "lengths"):
        return np.asarray(examples.lengths, dtype=np.int64).reshape(-1, 1)
    if hasattr(examples, "select_columns"):
        return text.list_lengths(examples, ["input_ids"])
    return np.array([[len(example["input_ids"])] for example in examples], dtype=np.int64)


def wants_flat(model: PreTrainedModel) -> bool:
    """Whether the model's attention separates packs only in a batch of one row, like the flash kernels."""
    return "flash" in (getattr(model.config, "_attn_implementation", None) or "")


def causal_collator(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    """`collate_causal` for this tokenizer and this model's attention.

    Raises:
        ValueError: the tokenizer has no pad token, or more tokens than the model has embeddings.
    """
    text.require_pad_token(tokenizer)
    check_fit(model, tokenizer)
    return partial(collate_causal, pad_token_id=tokenizer.pad_token_id, flat=wants_flat(model))
