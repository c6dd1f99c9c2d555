"""Layers of the custom Transformer, stacked to an encoder or a decoder. Shapes as in `attention.py`.

Copied into saved folders beside the model: imports torch, transformers and neighbours only.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import (
    CrossAttention,
    Layout,
    SelfAttention,
    angles,
    biased,
    distances,
    sinusoids,
    t5_buckets,
    visibility,
)
from .configuration import TransformerConfig


def make_norm(config: TransformerConfig) -> nn.Module:
    if config.norm_type == "rms_norm":
        return nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.use_bias)


class FeedForward(nn.Module):
    """FFN(x) = act(x W_up) W_down (section 3.3, eq. 2), or gated: (silu(x W_gate) * x W_up) W_down (Shazeer 2020)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        gated = config.hidden_act == "swiglu"
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, config.use_bias) if gated else None
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.use_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)
        self.activation = {"relu": nn.ReLU(), "gelu": nn.GELU(), "swiglu": nn.SiLU()}[config.hidden_act]
        self.dropout = nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]"""
        up = self.up_proj(x)
        inner = self.activation(up) if self.gate_proj is None else self.activation(self.gate_proj(x)) * up
        return self.down_proj(self.dropout(inner))


class TransformerLayer(GradientCheckpointingLayer):
    """Self-attention, in a decoder with a source cross-attention, and feed-forward (section 3.1, figure 1)."""

    def __init__(self, config: TransformerConfig, layer_index: int, causal: bool, cross_attention: bool):
        super().__init__()
        self.norm_first = config.norm_position == "pre"
        self.dropout = nn.Dropout(config.dropout)
        self.self_attn = SelfAttention(config, layer_index, causal)
        self.self_attn_norm = make_norm(config)
        if cross_attention:
            self.cross_attn = CrossAttention(config, layer_index)
            self.cross_attn_norm = make_norm(config)
        self.mlp = FeedForward(config)
        self.mlp_norm = make_norm(config)

    def residual(self, x: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """norm(x + sublayer(x)) of section 3.1, or x + sublayer(norm(x)) of Xiong et al. 2020"""
        if self.norm_first:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))

    # What may need a gradient comes by position: a reentrant checkpoint does not look into keywords.
    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None,
        distance: Tensor | None,
        source: Tensor | None,
        source_mask: Tensor | None,
        past_key_values: Cache | None = None,
    ) -> Tensor:
        """[B, L, D], source [B, S, D] -> [B, L, D]"""
        cache = past_key_values
        if isinstance(past_key_values, EncoderDecoderCache):
            cache = past_key_values.self_attention_cache
        x = self.residual(x, self.self_attn_norm, lambda x: self.self_attn(x, mask, rotation, distance, cache))
        if source is not None:
            x = self.residual(
                x, self.cross_attn_norm, lambda x: self.cross_attn(x, source, source_mask, past_key_values)
            )
        return self.residual(x, self.mlp_norm, self.mlp)


class TransformerStack(nn.Module):
    """Positions, N layers and, if norms come first, one more: the left or the right half of figure 1."""

    def __init__(self, config: TransformerConfig, num_layers: int, causal: bool, cross_attention: bool = False):
        super().__init__()
        self.config = config
        self.causal = causal
        self.dropout = nn.Dropout(config.dropout)
        if config.position_embedding_type == "learned":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.position_embedding_type == "t5":  # one table for all layers, as in T5
            self.relative_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)
        self.layers = nn.ModuleList(
            TransformerLayer(config, index, causal, cross_attention) for index in range(num_layers)
        )
        self.norm = make_norm(config) if config.norm_position == "pre" else nn.Identity()

    def forward(
        self,
        embeddings: Tensor,
        layout: Layout,
        source: Tensor | None = None,
        source_layout: Layout | None = None,
        past_key_values: Cache | None = None,
        output_hidden_states: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Run the next L positions, of which `past_key_values` may hold earlier ones.

        Args:
            embeddings: [B, L, D], scaled token embeddings.
            layout: of the row so far.
            source, source_layout: [B, S, D], what the encoder made, and its layout.

        Returns:
            [B, L, D] and, if asked for, the hidden states that enter each layer followed by those returned.
        """
        kind = self.config.position_embedding_type
        length, device = embeddings.shape[1], embeddings.device
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        mask = visibility(
            length,
            past + length,
            device,
            causal=self.causal,
            explicit=kind in ("t5", "shaw"),
            padding=layout.padding,
            query_documents=layout.documents,
            key_documents=layout.documents,
        )
        source_mask = rotation = distance = None
        if source is not None and source_layout is not None:
            source_mask = visibility(
                length,
                source.shape[1],
                device,
                padding=source_layout.padding,
                query_documents=layout.documents,
                key_documents=source_layout.documents,
            )
        if kind == "sinusoidal":
            embeddings = embeddings + sinusoids(layout.position_ids, self.config.hidden_size).type_as(embeddings)
        elif kind == "learned":
            embeddings = embeddings + self.learned(layout.position_ids)
        elif kind == "rotary":
            phases = angles(layout.position_ids, self.config.head_dim, self.config.rope_theta).unsqueeze(1)
            rotation = phases.cos(), phases.sin()
        elif kind == "t5":
            mask = biased(self.bucket_bias(distances(length, past + length, device)), mask)
        elif kind == "shaw":
            distance = distances(length, past + length, device)

        x = self.dropout(embeddings)
        passed: tuple[Tensor, ...] = ()
        for layer in self.layers:
            if output_hidden_states:
                passed += (x,)
            x = layer(x, mask, rotation, distance, source, source_mask, past_key_values=past_key_values)
        x = self.norm(x)
        return x, (*passed, x) if output_hidden_states else None

    def learned(self, position_ids: Tensor) -> Tensor:
        """[B, L] -> [B, L, D]"""
        rows = self.config.max_position_embeddings
        if not torch.compiler.is_compiling() and position_ids.max() >= rows:
            raise ValueError(
                f"a row of {int(position_ids.max()) + 1} positions, and the model has learned {rows}: truncate, or "
                "build the model with a higher max_position_embeddings or another position_embedding_type"
            )
        return self.position_embeddings(position_ids)

    def bucket_bias(self, distance: Tensor) -> Tensor:
        """[L, S] -> [1, H, L, S]: the scalar that T5 adds to each score, by head and by bucket of the distance."""
        config = self.config
        buckets, farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
        bias = self.relative_bias(t5_buckets(distance, buckets, farthest, self.causal))
        return bias.permute(2, 0, 1).unsqueeze(0)
