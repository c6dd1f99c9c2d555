"""Training, validation and test rows by the settings, and a count of rows that leak between them."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftrain.config import DataConfig
from hftrain.config.defaults import ENOUGH_TO_CHOOSE
from hftrain.config.errors import NO_INTERNET
from hftrain.config.sources import read_source
from hftrain.data.cut import fold_rows, split_rows
from hftrain.data.lines import Dialect
from hftrain.data.readers import NO_COLUMN
from hftrain.data.rows import Rows, leaks, load_rows
from hftrain.data.several import join_sources, sources_of, weighted
from hftrain.data.sources import split_names
from hftrain.metrics.intervals import wilson

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
SET_ASIDE = {  # as `held_out_size` has it
    "validation": "a tenth of 1,000 rows and more, a twentieth of fewer",
    "test": "a tenth; of under 500 rows 50, or a fifth if that is fewer",
}


def load_splits(
    config: DataConfig,
    *,
    columns: dict[str, str],
    seed: int = 42,
    compare: Sequence[str] = (),
    stratify: str | None = None,
    score: str | None = None,
    **reading: Any,
) -> dict[str, Rows]:
    """{"train", "validation", "test"}: each from its files or the data set's own split, or else cut from the training
    rows.

    `columns` and `reading` are as in `load_rows`. `bad` of a split are the rows left out of its source; a split cut
    from the training rows has none. With `config.fold`, the test rows are that fold of the training rows.

    Args:
        compare: columns that decide whether two rows are the same (default: all), the input first: rows with the same
            input stay in the same split, or else count as leaks.
        stratify: column with a class, or a list of labels: each is represented in the cut by its share, like each
            source.
        score: the task's score, if it is a share of the rows, for a warning that there are few of them.

    Raises:
        ValueError: rows cannot be used, or a split is empty.
    """
    if config.folds is not None and config.fold is None:
        raise ValueError(
            "folds: this recipe trains only once. Replace its last line main(parse(Config)) by run(main, Config) with "
            "`from hftrain import run` to run every fold, or run a single one with --fold 1"
        )
    compare = compare or list(columns)
    column = columns.get(compare[0], compare[0])  # the user's name for it

    def load(source: str, split: str | None = None) -> Rows:
        with naming_columns(config, columns.values()):
            return load_rows(
                source,
                columns=columns,
                split=split,
                config_name=config.dataset_config_name,
                max_bad_rows=config.max_bad_rows,
                dialect=dialect_of(config),
                **reading,
            )

    if config.train_file is not None:
        files = {"train": config.train_file, "validation": config.validation_file, "test": config.test_file}
        sources = {name: [read_source(file) for file in parts] for name, parts in files.items() if parts}
        joining: dict[str, Any] = {"compare": compare, "seed": seed, "max_bad_rows": config.max_bad_rows}
        rows = {name: join_sources(parts, load, **joining) for name, parts in sources.items()}
    else:
        name = config.dataset_name
        assert name is not None
        split_names = _split_names(name, config.dataset_config_name, reading.get("endings", ()))
        if split_names and "train" not in split_names:
            raise ValueError(f"{name} has no split named train; it has {', '.join(split_names)}")
        sources = {}
        wanted_splits = [split for split in SPLITS if split in split_names and not (config.folds and split == "test")]
        rows = {split: load(name, split) for split in wanted_splits} or {"train": load(name)}
    bad = {name: split.bad for name, split in rows.items()}
    cut: dict[str, Any] = {"by": compare[0], "column": column}
    if config.folds and config.fold:
        strata = strata_of(rows["train"], stratify)
        trained, tested = fold_rows(rows["train"], config.folds, config.fold, seed, strata=strata, **cut)
        rows |= {"train": rows["train"].select(trained), "test": rows["train"].select(tested)}
    shares = {"validation": config.validation_split, "test": config.test_split}
    wanted = {name: 0 if name in rows else share for name, share in shares.items()}
    if any(share != 0 for share in wanted.values()):
        strata = strata_of(rows["train"], stratify)
        rows |= split_rows(rows["train"], wanted["validation"], wanted["test"], seed, strata=strata, **cut)
    for name in SPLITS:
        if name not in rows:
            raise ValueError(f"there are no {name} rows: set {name}_file, or {name}_split above 0")
    if sources:
        rows["train"] = weighted(rows["train"], sources["train"], compare, seed)
    rows = {name: replace(split, bad=bad.get(name, []), split=name) for name, split in rows.items()}
    report_rows(rows, {name for name, share in wanted.items() if share is None})
    if few := few_to_choose_by(len(rows["validation"]), score, folded=bool(config.folds)):
        logger.warning("%s", few)
    rows = find_leaks(rows, compare, column)
    return {name: rows[name] for name in SPLITS}


@contextmanager
def naming_columns(config: DataConfig, columns: Iterable[str]) -> Iterator[None]:
    """Adds to the error of a missing column the settings that choose the columns."""
    try:
        yield
    except ValueError as error:
        read, named = set(columns), []
        for setting, value in vars(config).items():
            values = [value] if isinstance(value, str) else value or []
            if setting.endswith("_column") and read.intersection(values):
                named.append(f"{setting} (now {', '.join(values)})")
        if not named or not NO_COLUMN.search(str(error)):
            raise
        raise ValueError(f"{error}\nThe settings of the columns: {', '.join(named)}") from error


def strata_of(rows: Rows | Dataset, column: str | None) -> list[str] | None:
    """The strata for `split_rows`: the source of each row and its class or set of labels; None: a single stratum.

    Sets of labels with only one row form one stratum together."""
    names = [""] * len(rows)
    if column is not None:
        names = [label if isinstance(label, str) else "\0".join(sorted(label)) for label in rows[column]]
        if not all(isinstance(label, str) for label in rows[column]):
            counts = Counter(names)
            names = [name if counts[name] > 1 else "\0" for name in names]
    if sources := sources_of(rows):
        names = [f"{source}\0{name}" for source, name in zip(sources, names, strict=True)]
    return names if column is not None or sources else None


def report_rows(rows: Mapping[str, Rows], chosen: set[str]) -> None:
    """Logs the number of rows of each split, also by source; `chosen`: the splits whose size hftrain chose."""
    how = ""
    if chosen:
        names = [name for name in SPLITS if name in chosen]
        rules = "; ".join(f"{name} {SET_ASIDE[name]}" for name in names)
        how = f" (held out: {rules}; to change it set {'_split and '.join(names)}_split)"
    logger.warning("rows: %s%s", ", ".join(f"{len(rows[name]):,} {name}" for name in SPLITS), how)
    counts = {name: Counter(sources_of(rows[name])) for name in SPLITS}
    for source in dict.fromkeys(source for by_source in counts.values() for source in by_source):
        there = ", ".join(f"{by_source[source]:,} {name}" for name, by_source in counts.items() if by_source[source])
        logger.warning("rows of %s: %s", source, there)


def few_to_choose_by(rows: int, score: str | None, *, folded: bool = False) -> str | None:
    """A warning if a validation set of `rows` rows is too small to choose by; `folded`: in a cross-validation."""
    if rows >= ENOUGH_TO_CHOOSE:
        return None
    if score:
        low, high = wilson(0.9 * rows, rows)
        precision = f"{score} of 90 % on them may be {100 * low:.0f} to {100 * high:.0f} % on more rows"
    else:
        precision = f"a mean over them has a margin of +-{1.96 / math.sqrt(rows):.2f} standard deviations of a row"
    way_out = "set validation_file or raise validation_split" + ("" if folded else ", or set folds 5")
    return f"{rows} validation rows: {precision}; {way_out}"


def dialect_of(config: DataConfig) -> Dialect:
    return Dialect(config.delimiter, config.encoding, tuple(config.column_names))


def _split_names(dataset_name: str, config_name: str | None, endings: Sequence[str]) -> list[str]:
    """Splits of a folder or of a data set on the Hub; [] if there is only one without a name."""
    folder = Path(dataset_name).expanduser()
    if folder.is_dir() and config_name is None:
        return split_names(folder, endings)
    from datasets import get_dataset_split_names

    try:
        return list(get_dataset_split_names(dataset_name, config_name))
    except Exception as error:  # the Hub client, the network and the data set's own files all raise what they like
        raise ValueError(
            f"dataset_name {dataset_name!r} is not a local folder and could not be found on the Hub{NO_INTERNET}: "
            f"{type(error).__name__}: {error}"
        ) from error


def find_leaks(rows: Mapping[str, Rows], columns: Sequence[str], column: str = "") -> dict[str, Rows]:
    """The rows, with `leaks` of each held-out split: how many of its rows are in the training rows too. The log shows
    them, with `column` as the name of the first of `columns`."""
    checked = {"train": rows["train"]}
    for name, other in rows.items():
        if name == "train":
            continue
        leaked = leaks(rows["train"], other, columns)
        checked[name] = replace(other, leaks=leaked)
        if leaked.inputs:
            alike = leaked.inputs - leaked.rows
            logger.warning(
                "leak: %d of %d %s rows are in the training rows too%s; for example %s",
                *(
                    leaked.rows,
                    len(other),
                    name,
                    f", {alike} more share only the {column or columns[0]}" if alike else "",
                ),
                leaked.examples[0],
            )
    return checked


def sizes(rows: Mapping[str, Rows]) -> str:
    """The number of rows of each split, for a report's first sentence."""
    served = {"train": "to train on", "validation": "to choose by", "test": "to test on"}
    return ", ".join(f"{len(split):,} {served[name]}" for name, split in rows.items())
