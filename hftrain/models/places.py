"""The places of tokens in rows with padding, without padding, and in groups of rows of similar length.

Shapes: B rows of T tokens with padding, N tokens without, P tokens in groups, H heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

SPARE = 1e6  # pairs of tokens, times the width of attention, that cost as much as another group: about 0.3 ms


def similar(lengths: np.ndarray, spare: float) -> list[np.ndarray]:
    """The numbers of rows in groups of similar length, the longest first: a group ends where its padding would cost
    more than another group.

    Args:
        lengths: (B,) tokens of each row.
        spare: pairs of tokens whose attention costs as much as another group; 0: rows of one length only.
    """
    order = np.argsort(-lengths, kind="stable")
    cuts, longest, wasted = [], 0, 0.0
    sizes, counts = np.unique(-lengths, return_counts=True)
    for length, count, start in zip(-sizes, counts, np.cumsum(counts) - counts, strict=True):
        wasted += count * float(longest**2 - length**2)
        if start and wasted > spare:
            cuts.append(int(start))
        if not start or wasted > spare:
            longest, wasted = length, 0.0
    return np.split(order, cuts)


class Group(NamedTuple):
    """Rows of similar length, whose attention is computed at once."""

    rows: torch.Tensor  # their numbers in the batch
    columns: slice  # that have their tokens

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.columns.stop - self.columns.start


class Places:
    """The places of the tokens of a padded batch.

    Args:
        keep: (B, T), true for tokens, on the CPU.
        groups: the numbers of the rows of each group.
        device: that of the batch.
    """

    def __init__(self, keep: torch.Tensor, groups: Sequence[np.ndarray], device: torch.device):
        self.shape, self.keep = keep.shape, keep.to(device)
        lengths, tokens = keep.sum(1), keep.flatten().nonzero()[:, 0]
        self.longest = int(lengths.max())
        self.edges = F.pad(lengths.cumsum(0), (1, 0)).int().to(device)  # where each row begins among the tokens
        self.groups: list[Group] = []
        number = torch.zeros(keep.shape, dtype=torch.long)  # of each token; at padding that of any
        number[keep] = torch.arange(len(tokens))
        taken, spots, total = [], torch.empty_like(tokens), 0
        for rows in map(torch.from_numpy, groups):
            used = keep[rows].any(0).nonzero()[:, 0]
            columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
            inside, here = keep[rows, columns].flatten(), number[rows, columns].flatten()
            spots[here[inside]] = total + inside.nonzero()[:, 0]
            taken.append(here)
            total += len(here)
            self.groups.append(Group(rows.to(device), columns))
        self.tokens, self.spots, self.taken = (x.to(device) for x in (tokens, spots, torch.cat(taken)))

    def flat(self, values: torch.Tensor) -> torch.Tensor:
        """(B or 1, T, ...) -> (1, N, ...)"""
        rows = values.expand(self.shape[0], *values.shape[1:]).flatten(0, 1)
        taken: torch.Tensor = Taken.apply(rows, self.tokens)
        return taken[None]

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """(1, N, ...) -> (B, T, ...), with zeros at padding"""
        placed: torch.Tensor = Placed.apply(values[0], self.tokens, self.shape.numel())
        return placed.unflatten(0, self.shape)

    def in_groups(self, values: torch.Tensor) -> list[torch.Tensor]:
        """(1, H, N, d) -> of each group, (rows, H, columns, d), with any token at padding, which must stay unseen"""
        rows: torch.Tensor = Gathered.apply(values[0].transpose(0, 1), self.taken, self.spots)
        shapes = [group.shape for group in self.groups]
        parts = rows.split([count * columns for count, columns in shapes])
        return [part.unflatten(0, shape).transpose(1, 2) for part, shape in zip(parts, shapes, strict=True)]

    def from_groups(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The inverse of `in_groups`."""
        rows = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in values])
        taken: torch.Tensor = Taken.apply(rows, self.spots)
        return taken.transpose(0, 1)[None]


def place(values: torch.Tensor, tokens: torch.Tensor, size: int) -> torch.Tensor:
    return values.new_zeros(size, *values.shape[1:]).index_copy_(0, tokens, values)


class Taken(torch.autograd.Function):
    """`values[tokens]`, each taken once: the gradient is copied, not added up."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(tokens)
        ctx.size = len(values)
        return values.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (tokens,) = ctx.saved_tensors
        return place(gradient, tokens, ctx.size), None


class Placed(torch.autograd.Function):
    """The inverse of `Taken`: zeros of `size` with `values` at `tokens`."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, tokens: torch.Tensor, size: int) -> torch.Tensor:
        ctx.save_for_backward(tokens)
        return place(values, tokens, size)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


class Gathered(torch.autograd.Function):
    """`values[taken]`, where `spots` has the place of each value and other places are padding. The gradient is read at
    `spots`, not added up: at padding it is zero."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, taken: torch.Tensor, spots: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(spots)
        return values.index_select(0, taken)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None
