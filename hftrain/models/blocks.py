"""Attention of documents that share a row, block by block: a pack costs what its documents cost alone.

With a mask, each token of a pack is compared with every other one, and most of that is thrown away. Here each document
attends to itself alone. `transformers` knows it by the name BLOCKS, as `attn_implementation`.

Shapes: N documents, B rows of T tokens, L tokens of a document, H heads, d width of a head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hftrain.models.places import SPARE, Gathered, Taken, similar

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
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if query.is_cuda and dtype != torch.float32 and attention_mask is None and not dropout:
        groups = getattr(module, "num_key_value_groups", 1)
        parts = [part.to(dtype) for part in _tokens(query, repeat_kv(key, groups), repeat_kv(value, groups))]
        output = _by_kernel(parts, cu_seq_lens_q, max_length_q, scaling, causal)
    else:
        output = _in_groups(
            module, *_tokens(query, key, value), attention_mask, length, cu_seq_lens_q, causal, settings
        )
    return output.unflatten(0, (-1, length)), None


def _tokens(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """(B, H, T, d) -> (B T, H, d)."""
    return [tensor.transpose(1, 2).flatten(0, 1) for tensor in tensors]


class Group(NamedTuple):
    """Documents whose attention is computed at once, the shorter ones with padding behind them."""

    documents: int
    length: int  # of the longest
    start: int  # where the longest begins in its row


class Grouping(NamedTuple):
    """The places of tokens in groups of documents. P: the tokens of all groups, with padding."""

    edges: torch.Tensor  # as given
    spare: float
    groups: list[Group]
    taken: torch.Tensor  # (P,) the token of each place; at padding, any
    places: torch.Tensor  # (B T,) the place of each token


def group(edges: torch.Tensor, row: int, spare: float) -> Grouping:
    """Groups documents of similar length, as long as the padding costs less than another group.

    Args:
        edges: (N + 1,) where each document begins in the B T tokens.
        row: tokens of a row, T.
        spare: pairs of tokens whose attention costs as much as another group; 0: documents of one length only.
    """
    first = edges.cpu().numpy().astype(np.int64)
    lengths = np.diff(first)
    groups, taken, places, total = [], [], np.empty(int(first[-1]), dtype=np.int64), 0
    for members in similar(lengths, spare):
        length = int(lengths[members[0]])
        columns = np.arange(length)
        here = first[members, None] + columns
        inside = columns < lengths[members, None]
        places[here[inside]] = total + np.flatnonzero(inside)
        taken.append(np.where(inside, here, first[members, None]).ravel())
        groups.append(Group(len(members), length, int(first[members[0]] % row)))
        total += inside.size
    device = edges.device
    indices = (torch.from_numpy(part).to(device) for part in (np.concatenate(taken), places))
    return Grouping(edges, spare, groups, *indices)


_known: list[Grouping] = []  # of the last batch: its layers share the edges


def _grouping(edges: torch.Tensor, row: int, spare: float) -> Grouping:
    if not _known or _known[0].edges is not edges or _known[0].spare != spare:
        _known[:] = [group(edges, row, spare)]
    return _known[0]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the lengths are known only when it runs
def _in_groups(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    row: int,
    edges: torch.Tensor,
    causal: bool,
    settings: dict[str, Any],
) -> torch.Tensor:
    """Documents of similar length at once: where a token sees none behind it, padding there changes nothing."""
    *_, groups, taken, places = _grouping(edges, row, SPARE / query.shape[1:].numel() if causal else 0.0)
    sizes = [documents * length for documents, length, _ in groups]
    parts = (Gathered.apply(tensor, taken, places).split(sizes) for tensor in (query, key, value))
    outputs = []
    for (documents, length, start), *blocks in zip(groups, *parts, strict=True):
        q, k, v = (block.unflatten(0, (documents, length)).transpose(1, 2) for block in blocks)
        inside = slice(start, start + length)
        block_mask = mask if mask is None else mask[:1, :, inside, inside]
        outputs.append(sdpa_attention_forward(module, q, k, v, block_mask, **settings)[0].flatten(0, 1))
    output: torch.Tensor = Taken.apply(torch.cat(outputs), places)
    return output


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
