"""Batches for causal language models, also of documents packed into rows.

Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hftrain import text
from hftrain.losses import IGNORE, Batch
from hftrain.models.blocks import BLOCKS
from hftrain.models.fit import check_fit

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def collate_causal(
    examples: Sequence[Mapping[str, Any]],
    *,
    pad_token_id: int,
    pad_to_multiple_of: int = 1,
    flat: bool = False,
    blocks: bool = False,
    room: int = 1,
) -> Batch:
    """Examples {"input_ids"} or {"input_ids", "labels"} as rows, padded on the right, which no token attends to.

    Packs, which have "position_ids", get these and no attention mask: this makes transformers, and our own
    model, separate the documents of a row. Padding has position 0: each of its tokens is a separate document.

    Args:
        flat: all packs in one row, as the flash attention kernels need it (`wants_flat`), with the edges of the
            documents (cu_seq_lens_q, max_length_q, and the same for the keys), which they would read from the device.
        blocks: the edges for `hftrain.models.blocks`, and an attention mask of ones, so that transformers makes no mask
            that separates the documents.
        room: packs are padded to a multiple of this. With the maximum length all have one shape, for which a compiled
            model needs no dynamic sizes.

    Returns:
        int64 (B, T): input_ids, labels (-100 at padding), and attention_mask or position_ids. The labels are not
        shifted; `causal_language_model` does that.
    """
    columns = {name: [example[name] for example in examples] for name in examples[0]}
    columns.setdefault("labels", columns["input_ids"])
    packed = "position_ids" in columns
    if packed and flat:
        columns = {name: [np.concatenate(rows)] for name, rows in columns.items()}
    pad_to_multiple_of = room if packed and room > 1 else pad_to_multiple_of
    fill = {"input_ids": pad_token_id, "labels": IGNORE, "position_ids": 0}
    batch = {name: text.pad(columns[name], fill[name], pad_to_multiple_of) for name in fill if name in columns}
    if not packed:
        return batch | {"attention_mask": text.attention_mask(columns["input_ids"], pad_to_multiple_of)}
    if flat or blocks:
        batch |= edges(batch["position_ids"])
    return batch | {"attention_mask": torch.ones_like(batch["input_ids"])} if blocks else batch


def edges(positions: torch.Tensor) -> dict[str, Any]:
    """(B, T) positions that restart with each document -> where the documents begin in the B T tokens, and how long the
    longest is, by the names that transformers gives them."""
    starts = torch.cat([(positions.flatten() == 0).nonzero()[:, 0], torch.tensor([positions.numel()])])
    longest, starts = int(starts.diff().max()), starts.int()
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}


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


def in_blocks(model: PreTrainedModel) -> bool:
    """Whether the model attends to packs document by document (`hftrain.models.blocks`)."""
    return getattr(model.config, "_attn_implementation", None) == BLOCKS


def causal_collator(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, room: int = 1
) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    """`collate_causal` for this tokenizer and this model's attention; `room` as there.

    Raises:
        ValueError: the tokenizer has no pad token, or more tokens than the model has embeddings.
    """
    text.require_pad_token(tokenizer)
    check_fit(model, tokenizer)
    pad = tokenizer.pad_token_id
    return partial(collate_causal, pad_token_id=pad, flat=wants_flat(model), blocks=in_blocks(model), room=room)
