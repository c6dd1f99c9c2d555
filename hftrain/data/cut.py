"""Chooses held-out rows by a keyed hash of their text, independent of the order of the rows.

Rows with the same text are a group, and stay in the same split. Shapes: N rows, G groups, in the order of their
hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hftrain.config.defaults import ENOUGH_TO_CHOOSE
from hftrain.data.readers import missing
from hftrain.data.rows import Rows, iterate


class Groups(NamedTuple):
    """of_row: (N,) the group of each row; sizes: (G,) rows of each; strata: (G,) the number of each one's stratum."""

    of_row: np.ndarray
    sizes: np.ndarray
    strata: np.ndarray


def held_out_size(split: str, rows: int) -> int:
    """The number of held-out rows out of `rows` if it is not set.

    A tenth, at most 2,000. (The margin of an accuracy of 90 % is +-8 points with 50 rows and +-1.3 with 2,000: more
    would be wasted.) For the test at least 50, or a fifth if that is less. For validation only a twentieth if a tenth
    is too few to choose a checkpoint by: then they only serve a curve, and training needs them more."""
    size = round(0.1 * rows)
    if split == "test":
        size = max(size, min(50, round(0.2 * rows)))
    elif size < ENOUGH_TO_CHOOSE:
        size = round(0.05 * rows)
    return max(1, min(2000, size))


def digests(rows: Rows, columns: Sequence[str], seed: int, purpose: bytes = b"") -> np.ndarray:
    """(N,) 64 bits of each row: a keyed hash of its columns, the same on every platform."""
    key = seed.to_bytes(8, "big", signed=True)
    parts = (
        hashlib.blake2b("\0".join(values).encode(), digest_size=8, key=key, person=purpose).digest()
        for values in iterate(rows, columns)
    )
    return np.frombuffer(b"".join(parts), ">u8")


def group_rows(rows: Rows, by: str, seed: int, strata: Sequence[str] | None = None) -> Groups:
    """The groups of rows that share the text of column `by`; if rows disagree, in the first stratum by name."""
    if by not in rows.column_names:
        raise ValueError(missing(by, rows.column_names))
    # A collision of 64 bits would only put two texts into the same split.
    _, of_row, sizes = np.unique(digests(rows, [by], seed), return_inverse=True, return_counts=True)
    numbers = np.zeros(len(sizes), dtype=np.int64)
    if strata is not None:
        number = {name: number for number, name in enumerate(sorted(set(strata)))}
        numbers[:] = len(number)
        np.minimum.at(numbers, of_row, [number[name] for name in strata])
    return Groups(of_row, sizes, numbers)


def split_rows(
    rows: Rows,
    validation_split: float | None,
    test_split: float | None,
    seed: int,
    *,
    by: str = "source",
    column: str = "",
    strata: Sequence[str] | None = None,
) -> dict[str, Rows]:
    """Cut `rows` into train, validation and test, each in the order of `rows`.

    Rows are drawn by a keyed hash of the text in column `by`: the same on every platform, independent of the order of
    the rows, and rows that share this text are always in the same split.

    Args:
        validation_split, test_split: under 1 a share of the rows, else a number of rows; None: `held_out_size`. Exact
            if no text is repeated; otherwise all rows of a text are held out or none, so there may be a few rows less
            (with None more, if each text is in more rows).
        column: the source's name of `by`, for messages.
        strata: the class of each row: each class gets its share of held-out rows, up to rounding, and at least one text
            stays for training. None: rows are drawn without classes.

    Returns:
        {"train", "validation", "test"}; a split of 0 has no entry.

    Raises:
        ValueError: the column is unknown, a size is negative, or a split would be empty.
    """
    shares, sizes = {"test": test_split, "validation": validation_split}, {}
    for name, share in shares.items():
        if share is None:
            sizes[name] = held_out_size(name, len(rows))
            continue
        if share < 0 or (share >= 1 and share != int(share)):
            raise ValueError(f"{name}_split must be a share under 1 or a whole number of rows, got {share}")
        sizes[name] = int(share) if share >= 1 else round(share * len(rows))
        if share and not sizes[name]:
            way_out = f"raise it (from 1 on it is a number of rows), or set {name}_file"
            raise ValueError(f"{name}_split {share} of {len(rows)} rows is not one row: {way_out}")
    if sum(sizes.values()) >= len(rows):
        held_out = ", ".join(f"{size} for {name}" for name, size in sizes.items() if size)
        files = " and ".join(f"{name}_file" for name, size in sizes.items() if size)
        raise ValueError(
            f"{held_out} leave none of {len(rows)} rows to train on: add rows, set {files}, or lower "
            f"{files.replace('_file', '_split')}"
        )

    groups = group_rows(rows, by, seed, strata)
    split_of_group = np.zeros(len(groups.sizes), dtype=np.int8)
    for split, (name, size) in enumerate(sizes.items(), start=1):
        drawn = hashlib.blake2b(name.encode(), digest_size=8, key=seed.to_bytes(8, "big", signed=True)).digest()
        free = np.flatnonzero(split_of_group == 0)
        if shares[name] is None:  # a text in many rows is held out with all of them
            size = max(size, min(groups.sizes[free].tolist(), default=0))
        start = int.from_bytes(drawn, "big") / 2**64
        chosen = free[draw(groups.sizes[free], groups.strata[free], size, start, keep=strata is not None)]
        split_of_group[chosen] = split
        if size and not len(chosen) and (groups.sizes == 1).all():
            keeps = " and to keep one of each class" if strata is not None else ""
            raise ValueError(f"{len(rows)} rows are too few to hold out {size} for {name}{keeps}: set {name}_file")
        if size and not len(chosen) and strata is not None and (groups.sizes[free] <= size).any():
            raise ValueError(
                f"the {len(rows)} rows have only {len(groups.sizes)} different texts in column {column or by!r}: too "
                f"few to hold out some for {name} and to keep one of each class. Add rows, or set {name}_file"
            )
        if size and not len(chosen):
            raise ValueError(
                f"{name}_split: rows with the same {column or by!r} stay together, but each is in more than {size} "
                f"rows: raise {name}_split, or set {name}_file"
            )
    split_of_row = split_of_group[groups.of_row]
    if not (split_of_row == 0).any():
        raise ValueError(
            f"the splits {sizes} leave no row to train on: too few different texts in column {column or by!r}"
        )
    names = {"train": 0, "validation": 2, "test": 1}
    return {
        name: rows.select(np.flatnonzero(split_of_row == split))
        for name, split in names.items()
        if name == "train" or sizes[name]
    }


def draw(sizes: np.ndarray, strata: np.ndarray, wanted: int, start: float, keep: bool) -> list[int]:
    """Groups (G,) that together have about `wanted` rows: from each stratum its share, the first ones that fit.

    Args:
        start: from 0 to under 1: offset of the rounding of the shares. Each share is rounded down or up such that
            their sum is `wanted`, and over all starts the mean of each is exact.
        keep: the last group of a stratum is never taken.
    """
    order = np.argsort(strata, kind="stable")
    kinds, firsts = np.unique(strata[order], return_index=True)
    members = np.split(order, firsts[1:])
    edges = np.cumsum([0, *(int(sizes[members_of].sum()) for members_of in members)])
    quotas = np.diff(np.floor(edges * wanted / max(1, edges[-1]) + start).astype(np.int64))
    left = dict(zip(kinds.tolist(), map(len, members), strict=True))
    chosen: list[int] = []

    def take(candidates: np.ndarray, room: int) -> int:
        for index in candidates.tolist():
            if not room:
                break
            if sizes[index] <= room and not (keep and left[int(strata[index])] == 1):
                chosen.append(index)
                left[int(strata[index])] -= 1
                room -= int(sizes[index])
        return room

    rest = sum(take(members_of, int(quota)) for members_of, quota in zip(members, quotas, strict=True))
    if rest and len(members) > 1:  # shares too small for any group
        take(np.setdiff1d(np.arange(len(sizes)), chosen), rest)
    return chosen


def deal(sizes: np.ndarray, strata: np.ndarray, folds: int) -> np.ndarray:
    """(G,) the fold of each group, from 0: each goes to the fold with the fewest rows of its stratum, then the fewest
    rows."""
    fold_of_group = np.zeros(len(sizes), dtype=np.int64)
    whole = [0] * folds
    inside: dict[int, list[int]] = {}
    for index in np.argsort(strata, kind="stable").tolist():
        mine = inside.setdefault(int(strata[index]), [0] * folds)
        fold = min(range(folds), key=lambda fold: (mine[fold], whole[fold], fold))
        fold_of_group[index] = fold
        mine[fold] += int(sizes[index])
        whole[fold] += int(sizes[index])
    return fold_of_group


def fold_rows(
    rows: Rows, folds: int, fold: int, seed: int, *, by: str, column: str = "", strata: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training rows and of the test rows of a fold from 1 to `folds`: each row is a test row once.

    Arguments as in `split_rows`. Raises: ValueError, there are fewer texts than folds.
    """
    groups = group_rows(rows, by, seed, strata)
    if len(groups.sizes) < folds:
        raise ValueError(
            f"folds {folds}: there are only {len(groups.sizes)} different texts in column {column or by!r}, and equal "
            f"ones stay in one fold: set folds to {len(groups.sizes)} or less"
        )
    tested = deal(groups.sizes, groups.strata, folds)[groups.of_row] == fold - 1
    return np.flatnonzero(~tested), np.flatnonzero(tested)
