"""Positions, masks and attention of the custom Transformer.

Shapes, here, in `blocks.py` and in `transformer.py`:

    B  examples in the batch                    D  hidden_size, width of the residual stream
    L  length of the queries (the target)       H  attention heads, each d = D / H wide
    S  length of the keys (the source, or       G  key/value heads, H / G query heads to each
       past + L where keys are cached)          V  vocabulary

Every attention goes through `torch.nn.functional.scaled_dot_product_attention`. Without padding, packing or a
position bias it is called without a mask, which is what lets it choose a flash kernel.

Copied into saved folders beside the model: imports torch, transformers and neighbours only.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache

from .configuration import TransformerConfig

# --- positions -----------------------------------------------------------------------------------------------------


def angles(positions: Tensor, dim: int, base: float) -> Tensor:
    """[...] -> [..., dim / 2] float32: position / base^(2i / dim), the angle of each pair of features.

    Worked out from the positions in each forward rather than kept in a table: it costs some 50 microseconds, has no
    longest length, and leaves nothing for a change of dtype or a load on the meta device to spoil.
    """
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim
    return positions.float().unsqueeze(-1) * base**-exponents


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """[...] -> [..., dim]: PE of Vaswani et al. 2017, section 3.5, with all sines first and then all cosines.

    The paper interleaves them; the order is a fixed permutation of the features, and Marian's is this one.
    """
    phases = angles(positions, dim, 10000.0)
    return torch.cat((phases.sin(), phases.cos()), dim=-1)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of features (i, i + d/2) of `x` by its angle: RoFormer (Su et al. 2021), eq. 34.

    x: [B, G or H, L, d]; rotation: cosine and sine, each [B or 1, 1, L, d / 2].
    """
    (first, second), (cosine, sine) = x.chunk(2, dim=-1), rotation
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).type_as(x)


def distances(query_length: int, key_length: int, device: torch.device) -> Tensor:
    """[L, S]: key position minus query position, where the queries are the last L of the S positions."""
    keys = torch.arange(key_length, device=device)
    return keys - keys[key_length - query_length :, None]


def t5_buckets(distance: Tensor, num_buckets: int, max_distance: int, causal: bool) -> Tensor:
    """Bucket of each signed distance (Raffel et al. 2020, section 2.1), of the same shape, in [0, num_buckets).

    The nearest half of the distances have a bucket each; farther ones share buckets that widen logarithmically up to
    `max_distance`, and all beyond share the last. When keys on both sides are seen, each side has half the buckets.
    """
    if causal:
        side, away = torch.zeros_like(distance), (-distance).clamp(min=0)
    else:
        num_buckets //= 2
        side, away = num_buckets * (distance > 0), distance.abs()
    exact = num_buckets // 2
    octaves = torch.log(away.clamp(min=exact).float() / exact) / math.log(max_distance / exact)
    far = exact + (octaves * (num_buckets - exact)).long()
    return side + torch.where(away < exact, away, far.clamp(max=num_buckets - 1))


# --- masks ---------------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """How the tokens of a batch lie in their rows, read once per forward by `read_layout`."""

    position_ids: Tensor  # [B or 1, L]
    padding: Tensor | None  # bool [B, S], true for tokens; None where masking would change nothing
    documents: Tensor | None  # [B, L], which document of its row a token belongs to; None where rows hold one each


def read_layout(
    length: int,
    device: torch.device,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    *,
    causal: bool = False,
    past: int = 0,
) -> Layout:
    """The `Layout` of the next `length` tokens after `past` cached ones.

    Rows may be packed with several documents if no attention mask is given: a document starts wherever positions do
    not go up by one, the convention of transformers.

    Args:
        attention_mask: [B, past + length], 1 for tokens and 0 for padding.
        position_ids: [B or 1, length]; left out: counted from the start of the row.
        causal: no token looks to its right.

    Raises:
        ValueError: a mask that is not two-dimensional.
    """
    packed = None
    if position_ids is None:
        position_ids = torch.arange(past, past + length, device=device).unsqueeze(0)
    elif attention_mask is None and past == 0:
        starts = F.pad(position_ids.diff(dim=-1) != 1, (1, 0))
        if torch.compiler.is_compiling() or starts.any():  # values are not to be read while compiling
            packed = starts.cumsum(dim=-1)
    return Layout(position_ids, needed_padding(attention_mask, causal and past == 0), packed)


def needed_padding(mask: Tensor | None, causal: bool) -> Tensor | None:
    """The padding mask as bool, or None where attention without it gives the same to every token.

    It does where nothing is padded and, where no token looks to its right, if all padding stands on the right; what
    padding itself computes is never used.
    """
    if mask is None:
        return None
    if mask.dim() != 2:
        raise ValueError(
            f"the attention mask must be [batch, length], 1 for tokens and 0 for padding; it is {list(mask.shape)}. "
            "For rows packed with several documents leave it out and restart position_ids; a static cache, which "
            "makes four-dimensional masks, is not supported"
        )
    mask = mask.bool()
    if torch.compiler.is_compiling():
        return mask
    harmless = mask[:, 1:] <= mask[:, :-1] if causal else mask
    return None if harmless.all() else mask


def visibility(
    query_length: int,
    key_length: int,
    device: torch.device,
    *,
    causal: bool = False,
    explicit: bool = False,
    padding: Tensor | None = None,
    query_documents: Tensor | None = None,
    key_documents: Tensor | None = None,
) -> Tensor | None:
    """What each query may look at: bool, broadcastable to [B, 1, L, S], true where it may.

    Args:
        causal: a query sees no key after itself; the queries are the last L of the S positions.
        explicit: write the causal triangle out although `is_causal` could say it, for a bias to be added to.
        padding: bool [B, S], true for tokens.
        query_documents, key_documents: [B, L] and [B, S]; a query sees its own document alone.

    Returns:
        None where every key is seen or, if causal, where `is_causal` says it all.
    """
    rules = []
    if padding is not None:
        rules.append(padding[:, None, None, :])
    if query_documents is not None and key_documents is not None:
        rules.append(query_documents[:, None, :, None] == key_documents[:, None, None, :])
    if causal and query_length > 1 and (explicit or rules or query_length != key_length):
        rules.append(distances(query_length, key_length, device) <= 0)
    mask = None
    for rule in rules:
        mask = rule if mask is None else mask & rule
    return mask


def biased(bias: Tensor, mask: Tensor | None) -> Tensor:
    """An additive mask: `bias` where a query may look, and so low elsewhere that the softmax gives exactly 0 there."""
    # Half of the lowest number: autocast rounds the lowest itself to -inf, and a row of nothing else would be NaN.
    return bias if mask is None else bias.masked_fill(~mask, torch.finfo(bias.dtype).min / 2)


# --- attention -----------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """The projections and the product that self- and cross-attention share (Vaswani et al. 2017, section 3.2).

    MultiHead(Q, K, V) = Concat(head_1, ..., head_H) W^O, head_h = softmax(Q_h K_h^T / sqrt(d)) V_h, where H / G
    neighbouring query heads share a key/value head.
    """

    def __init__(self, config: TransformerConfig, layer_index: int):
        super().__init__()
        self.layer_index = layer_index
        self.head_dim = config.head_dim
        self.queries_per_key = config.num_attention_heads // config.num_key_value_heads
        self.dropout = config.attention_dropout
        width, key_width = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, width, bias=config.use_bias)
        self.k_proj = nn.Linear(width, key_width, bias=config.use_bias)
        self.v_proj = nn.Linear(width, key_width, bias=config.use_bias)
        self.o_proj = nn.Linear(width, width, bias=config.use_bias)

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, L, heads * d] -> [B, heads, L, d]"""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def merge_heads(self, x: Tensor) -> Tensor:
        """[B, H, L, d] -> [B, L, D], through W^O"""
        return self.o_proj(x.transpose(1, 2).flatten(2))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool = False) -> Tensor:
        """Eq. 1: query [B, H, L, d], key [B, G, S, d], value [B, G, S, any] -> [B, H, L, any]"""
        grouped = self.queries_per_key > 1
        if grouped and mask is not None:  # only the kernels without a mask can share key/value heads
            key, value = (x.repeat_interleave(self.queries_per_key, dim=1) for x in (key, value))
            grouped = False
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, enable_gqa=grouped
        )


class SelfAttention(Attention):
    """Attention of a sequence to itself, with its cache and, if so configured, rotary or Shaw positions."""

    def __init__(self, config: TransformerConfig, layer_index: int, causal: bool):
        super().__init__(config, layer_index)
        self.causal = causal
        self.reach = config.max_relative_position
        if config.position_embedding_type == "shaw":
            self.relative_keys = nn.Embedding(2 * self.reach + 1, self.head_dim)
            self.relative_values = nn.Embedding(2 * self.reach + 1, self.head_dim)

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None,
        distance: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        """[B, L, D] -> [B, L, D]; `mask` from `visibility`, `rotation` for `rotate`, `distance` [L, S] for Shaw."""
        query = self.split_heads(self.q_proj(hidden_states))
        key = self.split_heads(self.k_proj(hidden_states))
        value = self.split_heads(self.v_proj(hidden_states))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_index)
        if distance is not None:
            return self.merge_heads(self.attend_relative(query, key, value, mask, distance))
        is_causal = self.causal and mask is None and query.shape[2] > 1
        return self.merge_heads(self.attend(query, key, value, mask, is_causal))

    def attend_relative(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, distance: Tensor
    ) -> Tensor:
        """Shaw et al. 2018, eq. 3 and 4, with the tables a^K and a^V shared by the heads.

            e_ij = q_i (k_j + a^K_ij)^T / sqrt(d)        z_i = sum_j softmax(e)_ij (v_j + a^V_ij)

        The key term is a bias to the scores. The value term needs the weights themselves, which the fused call does
        not return; an identity matrix beside the values makes it return them, after its own softmax and dropout.
        """
        index = distance.clamp(-self.reach, self.reach) + self.reach
        bias = torch.einsum("bhld,lsd->bhls", query, self.relative_keys(index)) / math.sqrt(self.head_dim)
        identity = torch.eye(key.shape[2], dtype=value.dtype, device=value.device).expand(*value.shape[:2], -1, -1)
        mixed = self.attend(query, key, torch.cat((value, identity), dim=-1), biased(bias, mask))
        values, weights = mixed.split((self.head_dim, key.shape[2]), dim=-1)
        return values + torch.einsum("bhls,lsd->bhld", weights, self.relative_values(index))


class CrossAttention(Attention):
    """Attention of the target to the source, whose keys and values are made once and then kept in the cache."""

    def forward(
        self, hidden_states: Tensor, source: Tensor, mask: Tensor | None, cache: EncoderDecoderCache | None
    ) -> Tensor:
        """[B, L, D], source [B, S, D] -> [B, L, D]; `mask` from `visibility`.

        With a source of [B / K, S, D], K neighbouring rows of the target share a row of it.
        """
        query = self.split_heads(self.q_proj(hidden_states))
        if cache is not None and cache.is_updated.get(self.layer_index):
            kept: Any = cache.cross_attention_cache.layers[self.layer_index]
            key, value = kept.keys, kept.values
        else:
            key, value = self.split_heads(self.k_proj(source)), self.split_heads(self.v_proj(source))
            if cache is not None:
                key, value = cache.cross_attention_cache.update(key, value, self.layer_index)
                cache.is_updated[self.layer_index] = True
        if (rows := len(query) // len(key)) == 1:
            return self.merge_heads(self.attend(query, key, value, mask))
        together = query.unflatten(0, (-1, rows)).transpose(1, 2).flatten(2, 3)  # [B / K, H, K L, d]
        attended = self.attend(together, key, value, mask).unflatten(2, (rows, -1))
        return self.merge_heads(attended.transpose(1, 2).flatten(0, 1))
