"""Examples: the inputs of a model, read one by one or several at once, with facts about all of them.

Shapes: N examples, K sequences of an example (a source and a target, for instance).
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

BATCH = 1_000  # examples that are read at once when all are read


class Examples(Sequence[Any]):
    """A sequence of examples with their lengths.

    Args:
        items: anything with `len` and integer indexing: a list, a `datasets.Dataset`, ...
        lengths: (N, K) tokens of each example's K sequences, or (N,), for token budgets and batches of similar lengths.
        counts: what was counted when the examples were made: {"truncated": 3}. Other names count 0.
        fingerprint: identifies the examples; by default that of `items`, or computed from the lengths and a sample.
        rows: the rows behind them, if known: `hftrain inspect` counts how many leak and how many were left out.
    """

    def __init__(
        self,
        items: Sequence[Any],
        lengths: np.ndarray | Sequence[int],
        *,
        counts: Mapping[str, int] | None = None,
        fingerprint: str | None = None,
        rows: Rows | None = None,
    ):
        self.items, self.rows, self.lengths = items, rows, np.asarray(lengths, dtype=np.int64)
        if self.lengths.ndim == 1:
            self.lengths = self.lengths[:, None]
        if len(items) != len(self.lengths):
            raise ValueError(f"{len(items)} examples, but the lengths of {len(self.lengths)}")
        self.counts: Counter[str] = Counter(counts or {})
        if fingerprint is not None:
            self.fingerprint = fingerprint

    @classmethod
    def of(cls, items: Sequence[Any]) -> Examples:
        """`items` if they are `Examples`; otherwise as `Examples` with 1 as the length of each."""
        return items if isinstance(items, Examples) else cls(items, np.ones((len(items), 1), dtype=np.int64))

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.items, self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.__getitems__(list(range(*index.indices(len(self)))))
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The examples at `indices`, in a single read if `items` can."""
        return fetch(self.items, indices)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), BATCH):
            yield from self.__getitems__(list(range(start, min(start + BATCH, len(self)))))

    def column(self, name: str) -> Any:
        """The value of each example for `name`."""
        return self.items[name] if hasattr(self.items, "column_names") else [example[name] for example in self]  # type: ignore[call-overload]

    def select(self, chosen: Sequence[int]) -> Examples:
        """The examples of these indices, read now."""
        return Examples(self.__getitems__(chosen), self.lengths[list(chosen)])

    def replaced(self, **attributes: Any) -> Examples:
        """The same examples with another attribute: lengths, counts, items."""
        other = copy.copy(self)
        vars(other).update({"fingerprint": self.fingerprint, **attributes})
        return other


def fetch(items: Sequence[Any], indices: Sequence[int]) -> list[Any]:
    """`items[i]` for each index; in a single read if the items can (`Examples`, `datasets.Dataset`)."""
    if hasattr(items, "__getitems__"):
        examples: list[Any] = items.__getitems__(list(indices))
        return examples
    return [items[i] for i in indices]


def fingerprint_of(items: Sequence[Any], lengths: np.ndarray | None = None) -> str:
    """Identifies a data set: by its own fingerprint, or else by the lengths and a sample of the items."""
    if own := known_fingerprint(items):
        return own
    places = np.linspace(0, len(items) - 1, min(len(items), 1000))
    sample = [f"{len(items)}", *(_spelt_out(items[int(i)]) for i in places)]
    return hashlib.sha256((b"" if lengths is None else lengths.tobytes()) + "\n".join(sample).encode()).hexdigest()


def _spelt_out(item: Any) -> str:
    """`repr`, with all numbers of arrays and tensors, which `repr` shortens."""
    if isinstance(item, Mapping) and any(hasattr(value, "__array__") for value in item.values()):
        return repr({key: _spelt_out(value) for key, value in item.items()})
    if isinstance(item, (list, tuple)) and any(hasattr(value, "__array__") for value in item):
        return repr([_spelt_out(value) for value in item])
    if hasattr(item, "__array__"):
        values = np.ascontiguousarray(item)
        return f"{values.dtype} {values.shape} {hashlib.sha256(values.tobytes()).hexdigest()}"
    return repr(item)


def known_fingerprint(items: object) -> str | None:
    """The items' own fingerprint: that of `Examples` or `Rows`, or of a `datasets.Dataset`."""
    return getattr(items, "fingerprint", None) or getattr(items, "_fingerprint", None)
