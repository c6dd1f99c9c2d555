"""Several data sets as one: limits, joining, and weights, each a function of the seed and the content of the rows."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hftrain.config.sources import Source
from hftrain.data.cut import digests
from hftrain.data.rows import Places, Rows, dataset, listed

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def join_sources(
    sources: Sequence[Source], load: Callable[[str], Rows], *, compare: Sequence[str], seed: int, max_bad_rows: int
) -> Rows:
    """The rows of all `sources`, one source after another, with their places and bad rows.

    Args:
        load: the name of a source -> its rows.
        compare: columns that decide whether two rows are the same. A source with a limit gives the rows with the lowest
            hashes: of the first column, then of all.

    Raises:
        ValueError: there are more than `max_bad_rows` bad rows in all, or a file is in two sources.
    """
    parts = [limited(source, load(source.name), compare, seed) for source in sources]
    bad = [row for part in parts for row in part.bad]
    if len(bad) > max_bad_rows:
        raise ValueError(f"{len(bad)} bad rows in all, max_bad_rows is {max_bad_rows}; the first:\n{listed(bad)}")
    if len(parts) == 1:
        return parts[0]
    parts_places = [part.places for part in parts if part.places is not None]
    _check_overlap(sources, parts_places)
    starts = np.cumsum([0, *(len(part_places.files) for part_places in parts_places)])
    places = Places(
        [file for part_places in parts_places for file in part_places.files],
        np.concatenate([part_places.of_file + start for part_places, start in zip(parts_places, starts, strict=False)]),
        np.concatenate([part_places.numbers for part_places in parts_places]),
        [source.written for source, part_places in zip(sources, parts_places, strict=True) for _ in part_places.files],
    )
    return Rows(dataset(pa.concat_tables([part.data.with_format("arrow")[:] for part in parts])), bad, places)


def _check_overlap(sources: Sequence[Source], places: Sequence[Places]) -> None:
    """Raises: ValueError, a file is in two sources: its rows would count twice, also in the test score."""
    source_of: dict[str, str] = {}
    for source, part in zip(sources, places, strict=True):
        for file in dict.fromkeys(file for file, _ in part.files):
            first = source_of.setdefault(os.path.realpath(file), source.written)
            if first != source.written:
                raise ValueError(f"{file} is in {first} and in {source.written}: leave it out of one of them")


def limited(source: Source, rows: Rows, compare: Sequence[str], seed: int) -> Rows:
    """The rows within a source's limit, in their order."""
    if source.limit is None:
        return rows
    if source.limit > len(rows):
        logger.warning("%s: it has only %s rows", source.written, f"{len(rows):,}")
    row_digests, text_digests = (digests(rows, columns, seed, purpose=b"limit") for columns in (compare, compare[:1]))
    order = np.lexsort((row_digests, text_digests))
    return rows.select(np.sort(order[: source.limit]))


def weighted(rows: Rows, sources: Sequence[Source], compare: Sequence[str], seed: int) -> Rows:
    """Training rows repeated by the weights of their sources: each row of a source with the weight 2.5 twice, and
    half of them, by a hash, once more; with the weight 0.5 half of them.

    Raises:
        ValueError: a weight draws no row of a source that has some.
    """
    weights = {source.written: source.weight for source in sources}
    if set(weights.values()) == {1.0}:
        return rows
    drawn = digests(rows, compare, seed, purpose=b"weight")
    names = np.array(sources_of(rows) or [sources[0].written] * len(rows))
    chosen = []
    for name in dict.fromkeys(source.written for source in sources):
        mine = np.flatnonzero(names == name)
        times, fraction = divmod(weights[name], 1)
        part = mine[np.argsort(drawn[mine], kind="stable")[: round(fraction * len(mine))]]
        if len(mine) and not int(times) and not len(part):
            raise ValueError(
                f"{name}: the weight {weights[name]:g} draws none of its {len(mine):,} training rows: raise the "
                "weight, or leave the file out"
            )
        chosen += [np.repeat(mine, int(times)), part]
    return rows.select(np.sort(np.concatenate(chosen)))


def sources_of(rows: Rows | Dataset) -> list[str]:
    """The source of each row, as the user wrote it; [] if there is only one."""
    places = Rows.of(rows).places
    return [places.sources[file] for file in places.of_file] if places and places.sources else []


def source_counts(rows: Rows) -> dict[str, int]:
    """For a report: the number of rows of each source; {} if there is only one."""
    return {f"rows of {name}": count for name, count in Counter(sources_of(rows)).items()}


def scores_by_source(rows: Rows, **scores: Sequence[float]) -> list[dict[str, str | float]]:
    """For a report: the rows of each source and the mean of each of `scores`, which have a value for each row."""
    names = np.array(sources_of(rows))
    return [
        {"source": name, "rows": int((names == name).sum())}
        | {score: float(np.asarray(values, dtype=float)[names == name].mean()) for score, values in scores.items()}
        for name in dict.fromkeys(names.tolist())
    ]
