"""Attention of documents that share a row, block by block: a pack costs what its documents cost alone.

With a mask, each token of a pack is compared with every other one, and most of that is thrown away. Here each document
attends to itself alone. `transformers` knows it by the name BLOCKS, as `attn_implementation`.

Shapes: N documents, B rows of T tokens, L tokens of a document, H heads, d width of a head.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BLOCKS = "sdpa_blocks"


def block_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each document of a row; without `cu_seq_lens_q`, transformers' sdpa.

    Args:
        query, key, value: (B, H, T, d), key and value perhaps with fewer heads.
        attention_mask: (B, 1 or H, T, T) of a sliding window, or None. Documents of one length have the same mask.
        cu_seq_lens_q: (N + 1,) where each document begins in the B T tokens of all rows, and B T. No document is in two
            rows; each token of padding is a document.
        max_length_q: tokens of the longest document.

    Returns:
        (B, T, H, d) and None, as transformers expects.
    """
    settings = {"dropout": dropout, "scaling": scaling, **kwargs}
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    device, dtype, length = query.device.type, query.dtype, query.shape[2]
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if query.is_cuda and dtype != torch.float32 and attention_mask is None and not dropout:
        groups = getattr(module, "num_key_value_groups", 1)
        parts = [part.to(dtype) for part in _tokens(query, repeat_kv(key, groups), repeat_kv(value, groups))]
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        output = _by_kernel(parts, cu_seq_lens_q, max_length_q, scaling, causal)
    else:
        output = _by_length(module, *_tokens(query, key, value), attention_mask, length, cu_seq_lens_q, settings)
    return output.unflatten(0, (-1, length)), None


def _tokens(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """(B, H, T, d) -> (B T, H, d)."""
    return [tensor.transpose(1, 2).flatten(0, 1) for tensor in tensors]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the lengths are known only when it runs
def _by_length(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    row: int,
    edges: torch.Tensor,
    settings: dict[str, Any],
) -> torch.Tensor:
    """Documents of one length at once. `row`: tokens of a row, T."""
    lengths, sizes = edges.diff(), edges.diff().tolist()
    order = torch.repeat_interleave(lengths, lengths).argsort(stable=True)  # of tokens: the shortest documents first
    starts: dict[int, int] = {}  # length -> where the first document begins in its row
    for length, start in zip(sizes, edges.tolist(), strict=False):
        starts.setdefault(length, start % row)
    counts = Counter(sizes)
    groups = sorted(counts.items())
    parts = (Reordered.apply(tensor, order).split([n * count for n, count in groups]) for tensor in (query, key, value))
    outputs = []
    for (length, count), *blocks in zip(groups, *parts, strict=True):
        q, k, v = (block.unflatten(0, (count, length)).transpose(1, 2) for block in blocks)
        inside = slice(starts[length], starts[length] + length)
        block_mask = mask if mask is None else mask[:1, :, inside, inside]
        outputs.append(sdpa_attention_forward(module, q, k, v, block_mask, **settings)[0].flatten(0, 1))
    output: torch.Tensor = Reordered.apply(torch.cat(outputs), order.argsort())
    return output


class Reordered(torch.autograd.Function):
    """`values[order]` of a permutation, whose gradient is read, not added up, in the inverse order."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(order)
        return values[order]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (order,) = ctx.saved_tensors
        return gradient[order.argsort()], None


def _by_kernel(
    parts: list[torch.Tensor],
    edges: torch.Tensor,
    longest: int | None,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """All documents in one kernel of PyTorch, in half precision on a GPU; nothing is read from the device."""
    from torch.nn.attention.varlen import varlen_attn

    assert longest is not None
    query, key, value = parts
    window = (-1, 0) if causal else (-1, -1)
    output = varlen_attn(query, key, value, edges, edges, longest, longest, scale=scaling, window_size=window)
    assert isinstance(output, torch.Tensor)
    return output


AttentionInterface.register(BLOCKS, block_attention)
AttentionMaskInterface.register(BLOCKS, sdpa_mask)
