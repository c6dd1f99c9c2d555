"""Passes without padding: the layers of a model see only the tokens of a batch; attention alone sees the rows.

A padded batch costs its longest row times its rows. Here the tokens of all rows stand in one row while they are in a
stack of layers, and `scaled_dot_product_attention` gets them back in their rows, with the model's own mask. Dropout
draws as many numbers as for the padded batch, and uses those of the tokens. So loss and gradients are those of the
padded batch, but for rounding. If `exact` is false, it draws numbers for the tokens only, and on a GPU in half
precision one kernel computes the attention of all rows.

Shapes: B rows of T tokens with padding, N tokens without, H heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from hftrain.losses import IGNORE, Batch
from hftrain.models.places import SPARE, Group, Places, similar

Value = TypeVar("Value")
WORTH, WORTH_FREE = 0.3, 0.1  # of a batch must be padding, or it stays as it is; the latter if not `exact`


class InRows(TorchFunctionMode):
    """Gives attention its rows and dropout the numbers of the padded batch, within one layer.

    Args:
        own: the places of the layer's tokens.
        source: those of the tokens that cross-attention reads, in the second attention of the layer.
        masks: what is known of the masks of this pass.
        exact: whether dropout draws the numbers of the padded batch.
    """

    def __init__(self, own: Places, source: Places, masks: Masks, exact: bool):
        super().__init__()
        self.own, self.sources, self.masks, self.exact = own, iter([own, source]), masks, exact

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is F.dropout and self.exact:
            return self._drop(*args, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        **settings: Any,
    ) -> torch.Tensor:
        """query (1, H, N, d), key and value (1, G, N or tokens of the source, d) -> (1, H, N, d)"""
        source = next(self.sources)
        if not self.exact and not dropout_p and in_half_precision(query):
            kind = self.masks.kind(attn_mask, self.own, source, **settings)
            if kind != OTHER:
                return attend_at_once(query, key, value, self.own, source, causal=kind == CAUSAL, **settings)
        noise = None
        if dropout_p and self.exact:
            size = self.own.shape[0], query.shape[1], self.own.shape[1], source.shape[1]
            noise = torch.empty(size, dtype=query.dtype).bernoulli_(1 - dropout_p).div_(1 - dropout_p)
        outputs = []
        queries, keys, values = self.own.in_groups(query), source.in_groups(key), source.in_groups(value)
        masks = self.masks.parts(attn_mask, self.own, source, query.dtype)
        for own, read, mask, q, k, v in zip(self.own.groups, source.groups, masks, queries, keys, values, strict=True):
            drawn = part_of(noise, own.rows, own.columns, read.columns)
            if drawn is None:
                output = F.scaled_dot_product_attention(q, k, v, mask, dropout_p, **settings)
            else:
                output = attend(q, k, v, mask, drawn, **settings)
            outputs.append(output)
        return self.own.from_groups(outputs)

    def _drop(self, values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        if not training or not 0 < p < 1:
            return F.dropout(values, p, training, inplace)
        noise = torch.empty(*self.own.shape, *values.shape[2:], dtype=values.dtype).bernoulli_(1 - p)
        return values * noise.flatten(0, 1).index_select(0, self.own.tokens).div_(1 - p)


OTHER, FULL, CAUSAL = "other", "full", "causal"  # kinds of masks: rows see all their tokens, or those before


class Masks:
    """What is computed once for each mask of a forward pass, since layers share it."""

    def __init__(self) -> None:
        self.kinds: list[tuple[tuple[object, ...], str]] = []
        self.cut: list[tuple[tuple[object, ...], list[torch.Tensor | None]]] = []

    def kind(
        self, mask: torch.Tensor | None, own: Places, source: Places, is_causal: bool = False, **settings: Any
    ) -> str:
        """Makes a CPU wait for a GPU."""
        if mask is None:
            padded = own is not source or source.longest < source.shape[1]
            return CAUSAL if is_causal else OTHER if padded else FULL
        return _once(self.kinds, (mask, own, source), lambda: kind_of(mask, own.keep, source.keep))

    def parts(
        self, mask: torch.Tensor | None, own: Places, source: Places, dtype: torch.dtype
    ) -> list[torch.Tensor | None]:
        """The mask of each group, as numbers that are added. Padding sees all: a row that sees nothing gives NaN."""

        def cut() -> list[torch.Tensor | None]:
            pairs = zip(own.groups, source.groups, strict=True)
            return [added(mask, own.keep, group, read, dtype) for group, read in pairs]

        return _once(self.cut, (mask, own, source, dtype), cut)


def _once(known: list[tuple[tuple[object, ...], Value]], key: tuple[object, ...], make: Callable[[], Value]) -> Value:
    for other, value in known:
        if all(a is b for a, b in zip(other, key, strict=True)):
            return value
    known.append((key, make()))
    return known[-1][1]


def added(
    mask: torch.Tensor | None, keep: torch.Tensor, own: Group, source: Group, dtype: torch.dtype
) -> torch.Tensor | None:
    part = part_of(mask, own.rows, own.columns, source.columns)
    if part is None:
        return None
    if part.dtype == torch.bool:
        part = torch.zeros(part.shape, dtype=dtype, device=part.device).masked_fill_(~part, -torch.inf)
    if part.shape[2] == 1:
        return part
    return part.masked_fill(~keep[own.rows, own.columns][:, None, :, None], 0)


def kind_of(mask: torch.Tensor, own: torch.Tensor, source: torch.Tensor) -> str:
    """The kind of a mask (B or 1, H or 1, queries or 1, keys); `own` and `source`: (B, T), true for tokens."""
    if mask.dtype != torch.bool:
        return OTHER
    keys, padding = source[:, None, None], ~own[:, None, :, None]
    if bool(((mask == keys) | padding).all()):
        return FULL
    if own.shape != source.shape:
        return OTHER
    before = torch.ones(own.shape[1], source.shape[1], dtype=torch.bool, device=own.device).tril()
    return CAUSAL if bool(((mask == (keys & before)) | padding).all()) else OTHER


def in_half_precision(query: torch.Tensor) -> bool:
    """On a GPU, where PyTorch has a kernel for rows of any lengths."""
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)


def attend_at_once(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    own: Places,
    source: Places,
    *,
    causal: bool,
    scale: float | None = None,
    enable_gqa: bool = False,
    **settings: Any,
) -> torch.Tensor:
    """The attention of all rows in one kernel; shapes as in `InRows`."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    edges, longest = (own.edges, source.edges), (own.longest, source.longest)
    window = (-1, 0) if causal else (-1, -1)
    output = varlen_attn(q, k, v, *edges, *longest, scale=scale, window_size=window, enable_gqa=enable_gqa)
    assert isinstance(output, torch.Tensor)
    return output.transpose(0, 1)[None]


def part_of(values: torch.Tensor | None, rows: torch.Tensor, queries: slice, keys: slice) -> torch.Tensor | None:
    """The part of a mask, or of noise, (B or 1, H or 1, queries or 1, keys or 1) for these rows and columns."""
    if values is None:
        return None
    values = values[rows] if len(values) > 1 else values
    values = values[:, :, queries] if values.shape[2] > 1 else values
    return values[..., keys] if values.shape[3] > 1 else values


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    noise: torch.Tensor,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`scaled_dot_product_attention` whose weights are multiplied by `noise`, as torch computes it with dropout."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    half = (scale or query.shape[-1] ** -0.5) ** 0.5
    scores = (query * half) @ (key * half).transpose(-2, -1)
    if is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).tril().logical_not(), -torch.inf)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1) * noise @ value


class Stack:
    """The layers of an encoder or a decoder, whose forward passes it replaces while it is entered.

    Args:
        source: the places of what cross-attention reads; without one, those of its own tokens.
        masks, exact: as for `InRows`.
    """

    def __init__(self, layers: nn.ModuleList, own: Places, source: Places, masks: Masks, exact: bool):
        self.layers, self.own, self.source, self.masks, self.exact = layers, own, source, masks, exact
        self.is_flat, self.served = False, False  # now; in any pass

    def run(self, layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        named = not args
        hidden = kwargs.pop("hidden_states") if named else args[0]
        if not self.is_flat and hidden.shape[:2] != self.own.shape:  # not a token for each place, as in audio
            return forward(hidden, *args[1:], **kwargs)
        hidden = hidden if self.is_flat else self.own.flat(hidden)
        self.served = True
        self.is_flat = layer is not self.layers[-1]
        others = [self._flat(value) for value in args[1:]]
        with InRows(self.own, self.source, self.masks, self.exact):
            output = forward(hidden, *others, **{name: self._flat(value) for name, value in kwargs.items()})
        if self.is_flat:
            return output
        if isinstance(output, tuple):
            return (self.own.padded(output[0]), *output[1:])
        return self.own.padded(output)

    def _flat(self, value: Any) -> Any:
        """An argument of a layer: positions, in pairs, of the tokens; the output of the encoder; or a mask, which
        attention gets as it is."""
        if isinstance(value, tuple):
            return tuple(self._flat_positions(part) for part in value)
        read = isinstance(value, torch.Tensor) and value.ndim == 3 and self.source is not self.own
        return self.source.flat(value) if read and value.shape[:2] == self.source.shape else value

    def _flat_positions(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value.ndim == 4 and value.shape[1] == 1:  # of each head
            return self._flat_positions(value[:, 0])[:, None]
        return self.own.flat(value) if value.ndim == 3 and value.shape[1] == self.own.shape[1] else value


def stacks_of(model: PreTrainedModel) -> list[tuple[nn.ModuleList, bool]]:
    """The stacks of layers, and whether each belongs to the decoder of an encoder-decoder."""
    decoder = set(model.get_decoder().modules()) if model.config.is_encoder_decoder else set()
    return [
        (part, part in decoder)
        for part in model.modules()
        if isinstance(part, nn.ModuleList) and all(isinstance(layer, GradientCheckpointingLayer) for layer in part)
        if len(part)
    ]


def places_of(model: PreTrainedModel, batch: Batch, worth: float = WORTH) -> tuple[Places, Places] | None:
    """The places of the tokens of the encoder and of the decoder, which are the same for one stack; None if the batch
    has less padding than it is worth.

    A decoder with a source needs nothing behind the last label of a row. A pair, (B, 2, T), is two rows.
    """
    mask = batch.get("attention_mask")
    if mask is None or mask.ndim < 2:
        return None
    keep = own = mask.flatten(0, -2).bool().cpu()
    if model.config.is_encoder_decoder:
        labels, inputs = batch.get("labels"), batch.get("decoder_input_ids")
        if labels is None or inputs is None or labels.ndim != 2 or labels.shape != inputs.shape:
            return None
        own = (labels.cpu() != IGNORE).flip(1).cumsum(1).flip(1) > 0
    tokens, lengths = keep.numel() + own.numel(), keep.sum(1) + own.sum(1)
    if tokens - int(lengths.sum()) <= worth * tokens:
        return None
    groups = similar(lengths.numpy() / 2, SPARE / (getattr(model.config, "hidden_size", None) or 1))
    source = Places(keep, groups, mask.device)
    return source, Places(own, groups, mask.device) if own is not keep else source


@contextmanager
def unpadded(
    model: PreTrainedModel, batch: Batch, worth: float = WORTH, *, exact: bool = True
) -> Iterator[list[Stack]]:
    """A context in which the layers of `model` see the tokens of `batch` only. Its adapters belong to it. Gives the
    stacks of these layers.

    Args:
        worth: the share of padding from which on this is done.
        exact: dropout draws the numbers of the padded batch; false: of the tokens.
    """
    places = places_of(model, batch, worth)
    if places is None:
        yield []
        return
    source, own = places
    changed: list[nn.Module] = []
    stacks: list[Stack] = []
    masks = Masks()
    try:
        for layers, decodes in stacks_of(model):
            stack = Stack(layers, own if decodes else source, source, masks, exact)
            stacks.append(stack)
            for layer in layers:
                changed.append(layer)
                layer.forward = _bound(stack, layer, layer.forward)
        yield stacks
    finally:
        for layer in changed:
            del layer.forward


def _bound(stack: Stack, layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: stack.run(layer, forward, *args, **kwargs)
