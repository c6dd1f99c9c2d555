"""Training, validation and test rows as a configuration asks for them, and a count of what leaks between them."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftrain.config import DataConfig
from hftrain.config.sources import read_source
from hftrain.data.cut import fold_rows, split_rows
from hftrain.data.lines import Dialect
from hftrain.data.rows import Rows, leaks, load_rows
from hftrain.data.several import join_sources, sources_of, weighted
from hftrain.data.sources import split_names
from hftrain.metrics.intervals import wilson

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
FEW = 100  # validation rows: by fewer, an accuracy of 90 % is known to +-6 points or worse


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
    """{"train", "validation", "test"}: each from its files or the data set's own split, else cut off the training rows.

    `columns` and `reading` are as in `load_rows`. `bad` of a split are the rows left out of its source; what is cut off
    the training rows has none. With `config.fold`, the test rows are that fold of the training rows.

    Args:
        compare: columns that make two rows the same (default: all), the input first: rows of the same input land on the
            same side of a cut, and are what leaks.
        stratify: column with a class, or a list of labels: each gets its share of what is cut off. So does each source.
        score: the task's score, if it is a share of the rows, for a warning that they are few.

    Raises:
        ValueError: rows that cannot be used, or splits that leave nothing.
    """
    if config.folds is not None and config.fold is None:
        raise ValueError(
            "folds: this recipe trains once. Its last line runs every fold if it is run(main, Config) with "
            "`from hftrain import run`, in place of main(parse(Config)); --fold 1 runs the first alone"
        )
    compare = compare or list(columns)
    column = columns.get(compare[0], compare[0])  # as the user calls it

    def load(source: str, split: str | None = None) -> Rows:
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
        sources = {name: [read_source(file) for file in each] for name, each in files.items() if each}
        joining: dict[str, Any] = {"compare": compare, "seed": seed, "max_bad_rows": config.max_bad_rows}
        rows = {name: join_sources(each, load, **joining) for name, each in sources.items()}
    else:
        name = config.dataset_name
        assert name is not None
        known = _split_names(name, config.dataset_config_name)
        if known and "train" not in known:
            raise ValueError(f"{name} has no split named train; it has {', '.join(known)}")
        sources = {}
        wanted_splits = [split for split in SPLITS if split in known and not (config.folds and split == "test")]
        rows = {split: load(name, split) for split in wanted_splits} or {"train": load(name)}
    bad = {name: split.bad for name, split in rows.items()}
    cut: dict[str, Any] = {"by": compare[0], "column": column}
    if config.folds and config.fold:
        strata = strata_of(rows["train"], stratify)
        kept, tested = fold_rows(rows["train"], config.folds, config.fold, seed, strata=strata, **cut)
        rows |= {"train": rows["train"].select(kept), "test": rows["train"].select(tested)}
    shares = {"validation": config.validation_split, "test": config.test_split}
    wanted = {name: 0 if name in rows else share for name, share in shares.items()}
    if any(share != 0 for share in wanted.values()):
        strata = strata_of(rows["train"], stratify)
        rows |= split_rows(rows["train"], wanted["validation"], wanted["test"], seed, strata=strata, **cut)
    for name in SPLITS:
        if name not in rows:
            raise ValueError(f"there are no {name} rows: name a {name}_file, or set {name}_split above 0")
    if sources:
        rows["train"] = weighted(rows["train"], sources["train"], compare, seed)
    rows = {name: replace(split, bad=bad.get(name, []), split=name) for name, split in rows.items()}
    report_rows(rows, {name for name, share in wanted.items() if share is None})
    if few := few_to_choose_by(len(rows["validation"]), score):
        logger.warning("%s", few)
    rows = find_leaks(rows, compare, column)
    return {name: rows[name] for name in SPLITS}


def strata_of(rows: Rows | Dataset, column: str | None) -> list[str] | None:
    """What `split_rows` draws by: the source of each row and its class, or its set of labels; None: all rows are alike.

    Sets of labels that only one row has are one stratum together."""
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
    """Logs how many rows each split has, by source too; `chosen`: those whose size nobody set."""
    how = ""
    if chosen:
        how = (
            f" ({' and '.join(name for name in SPLITS if name in chosen)}: set aside, a tenth, at least 50 or a fifth, "
            f"at most 2,000; {'_split and '.join(sorted(chosen))}_split set it)"
        )
    logger.warning("rows: %s%s", ", ".join(f"{len(rows[name]):,} {name}" for name in SPLITS), how)
    counts = {name: Counter(sources_of(rows[name])) for name in SPLITS}
    for source in dict.fromkeys(source for each in counts.values() for source in each):
        there = ", ".join(f"{each[source]:,} {name}" for name, each in counts.items() if each[source])
        logger.warning("rows of %s: %s", source, there)


def few_to_choose_by(rows: int, score: str | None) -> str | None:
    """What to say of a validation set of so many rows, if they are too few to choose a model by."""
    if rows >= FEW:
        return None
    if score:
        low, high = wilson(round(0.9 * rows), rows)
        known = f"{score} of 90 % is known to +-{50 * (high - low):.0f} points"
    else:
        known = f"a mean over them is known to +-{1.96 / math.sqrt(rows):.2f} standard deviations of a row"
    return f"{rows} validation rows: {known}; give a validation_file, raise validation_split, or set folds 5"


def dialect_of(config: DataConfig) -> Dialect:
    return Dialect(config.delimiter, config.encoding, tuple(config.column_names))


def _split_names(dataset_name: str, config_name: str | None) -> list[str]:
    """Splits of a folder or of a data set on the Hub; [] where there is only one, nameless."""
    folder = Path(dataset_name).expanduser()
    if folder.is_dir() and config_name is None:
        return split_names(folder)
    from datasets import get_dataset_split_names

    try:
        return list(get_dataset_split_names(dataset_name, config_name))
    except Exception as error:  # the Hub client, the network and the data set's own files all raise what they like
        raise ValueError(
            f"dataset_name {dataset_name!r} is not a local folder and could not be found on the Hub: "
            f"{type(error).__name__}: {error}"
        ) from error


def find_leaks(rows: Mapping[str, Rows], columns: Sequence[str], column: str = "") -> dict[str, Rows]:
    """The rows, where each held-out split knows which of its rows stand in the training rows too; the log says so, and
    calls the first of `columns` `column`."""
    checked = {"train": rows["train"]}
    for name, other in rows.items():
        if name == "train":
            continue
        found = leaks(rows["train"], other, columns)
        checked[name] = replace(other, leaks=found)
        if found.inputs:
            alike = found.inputs - found.rows
            logger.warning(
                "leak: of %d %s rows %d stand in the training rows too%s; for example %s",
                *(
                    len(other),
                    name,
                    found.rows,
                    f", and of {alike} more the {column or columns[0]} does" if alike else "",
                ),
                found.examples[0],
            )
    return checked


def sizes(rows: Mapping[str, Rows]) -> str:
    """How many rows serve what, for a report's first sentence."""
    served = {"train": "to train on", "validation": "to choose by", "test": "to test on"}
    return ", ".join(f"{len(split):,} {served[name]}" for name, split in rows.items())
