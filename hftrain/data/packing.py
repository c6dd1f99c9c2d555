"""Packing: whole documents joined to sequences of nearly `max_length` tokens; no document is cut.

Shapes: N documents, P packs, T tokens of a pack.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

import numpy as np

from hftrain.data.examples import Examples, fetch, known_fingerprint


class Packs(Sequence[np.ndarray]):
    """P bins: the i-th item holds the indices of the documents in it.

    Attributes:
        lengths: (P, 1) tokens of each pack, for `fit` and `mean_loss`.
        max_length: maximum tokens of a pack.
        padding: share of tokens that are padding when each pack is padded to `max_length`.
    """

    def __init__(self, members: np.ndarray, edges: np.ndarray, lengths: np.ndarray, max_length: int):
        """members: (N,) documents, pack after pack; edges: (P + 1,) where each begins; lengths: (N,) of documents."""
        self.members, self.edges, self.max_length = members, edges, max_length
        self.lengths = np.add.reduceat(lengths[members], edges[:-1])[:, None] if len(members) else np.zeros((0, 1), int)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # IndexError past the end; negative indices count from there
        return self.members[self.edges[index] : self.edges[index + 1]]

    @property
    def padding(self) -> float:
        return 1 - float(self.lengths.sum()) / max(1, len(self) * self.max_length)


def pack(lengths: np.ndarray | Sequence[int], max_length: int) -> Packs:
    """Best-fit-decreasing bins (Ding et al., 2024, "Fewer Truncations Improve Language Modeling", arXiv 2404.10830,
    section 3.2): documents from long to short, each into the fullest pack that has room for it.

    Documents of one length are placed together: the fullest pack with room takes as many of them as fit, since it stays
    the fullest after each. So the time grows with the number of different lengths; the number of documents costs only
    one sort. The same lengths give the same packs.

    Args:
        lengths: (N,) tokens of each document, 1 or more.
        max_length: maximum tokens of a pack.

    Raises:
        ValueError: a document is longer than `max_length`, or empty.
    """
    lengths = np.asarray(lengths, dtype=np.int64).reshape(-1)
    for wrong, problem in (
        (lengths > max_length, f"more than max_length={max_length}"),
        (lengths < 1, "nothing to pack"),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"row {row} has {lengths[row]} tokens, {problem} (like {wrong.sum()} rows in all): "
                "raise max_length, or split or leave out such rows"
            )
    order = np.argsort(-lengths, kind="stable")
    sizes, counts = np.unique(lengths, return_counts=True)
    bin_of = []  # the bin of each document in `order`
    bins_with: dict[int, list[np.ndarray]] = {}  # room -> packs with exactly this room
    rooms: list[int] = []  # the keys of `bins_with`, rising
    total = 0  # number of packs so far

    def put_back(bins: np.ndarray, room: int) -> None:
        if room and len(bins):
            if room not in bins_with:
                bins_with[room] = []
                insort(rooms, room)
            bins_with[room].append(bins)

    for size, left in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while left:
            at = bisect_left(rooms, size)
            if at < len(rooms):
                room = rooms[at]
                bins = bins_with[room].pop()
                if not bins_with[room]:
                    del bins_with[room], rooms[at]
            else:
                room = max_length
                bins = np.arange(total, total - (-left // (max_length // size)))
                total += len(bins)
            per_bin = room // size
            used = min(len(bins), -(-left // per_bin))
            placed = min(left, used * per_bin)
            bin_of.append(np.repeat(bins[:used], per_bin)[:placed])
            full = placed // per_bin
            put_back(bins[:full], room - per_bin * size)
            put_back(bins[full:used], room - (placed - full * per_bin) * size)  # the last pack may not be full
            put_back(bins[used:], room)
            left -= placed
    pack_of = np.concatenate(bin_of) if bin_of else np.zeros(0, dtype=np.int64)
    members = order[np.argsort(pack_of, kind="stable")]
    return Packs(members, np.concatenate([[0], np.cumsum(np.bincount(pack_of))]), lengths, max_length)


class Packed(Examples):
    """Packs as examples: {"input_ids", "labels", "position_ids"}, each (T,) int64.

    The documents of a pack follow each other. Each counts its positions from 0 and its first label is -100, since
    the loss compares labels[1:] with logits[:-1]: no document is learnt from the one before it. A model is exact on
    them if its attention keeps documents apart by `position_ids` (given no attention_mask).

    Args:
        examples: documents {"input_ids"}, or {"input_ids", "labels"} if some tokens are not learnt.
    """

    def __init__(self, examples: Sequence[Any], packs: Packs):
        self.examples, self.packs, self.padding = examples, packs, packs.padding
        self.pieces = getattr(examples, "pieces", 0)  # number of documents that are pieces of a longer one
        fingerprint = known_fingerprint(examples)
        identity = fingerprint or repr([{name: list(column) for name, column in row.items()} for row in examples])
        digest = hashlib.sha256(identity.encode())
        for array in (packs.members, packs.edges):
            digest.update(array.astype("<i8").tobytes())
        counts, rows = (examples.counts, examples.rows) if isinstance(examples, Examples) else (None, None)
        super().__init__(packs, packs.lengths, counts=counts, fingerprint=digest.hexdigest(), rows=rows)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """The examples at `indices`; their documents are read at once where `examples` can."""
        chosen = [self.packs[index] for index in indices]
        documents = iter(fetch(self.examples, np.concatenate(chosen).tolist())) if chosen else iter(())
        return [join([next(documents) for _ in members]) for members in chosen]


def join(documents: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """One pack of `documents`, in their order; see `Packed`."""
    ids = [np.asarray(document["input_ids"], dtype=np.int64) for document in documents]
    labels = np.concatenate([document.get("labels", document["input_ids"]) for document in documents]).astype(np.int64)
    labels[np.cumsum([0, *map(len, ids[:-1])])] = -100
    positions = np.concatenate([np.arange(len(tokens)) for tokens in ids])
    return {"input_ids": np.concatenate(ids), "labels": labels, "position_ids": positions}
