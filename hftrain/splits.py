"""Training, validation and test rows as a configuration asks for them, and a count of what leaks between them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftrain.config import DataConfig
from hftrain.data.lines import Dialect
from hftrain.data.rows import leaks, load_rows, split_rows
from hftrain.data.sources import split_names

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


def load_splits(
    config: DataConfig, *, columns: dict[str, str], seed: int = 42, compare: Sequence[str] = (), **reading: Any
) -> dict[str, Dataset]:
    """{"train", "validation", "test"}: each from its file or the data set's own split, else cut off the training rows.

    `columns` and `reading` are as in `load_rows`. Each split has two more attributes, for the report: `bad`, the rows
    left out of its source (rows cut off the training rows are counted with those), and `leaks`, as `find_leaks` sets.

    Args:
        compare: columns that make two rows the same (default: all), the input first: rows of the same input land on the
            same side of a cut, and are what leaks.

    Raises:
        ValueError: rows that cannot be used, or splits that leave nothing.
    """
    from datasets import NamedSplit

    compare = compare or list(columns)
    column = columns.get(compare[0], compare[0])  # as the user calls it

    def load(source: str, split: str | None = None) -> Dataset:
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
        rows = {name: load(file) for name, file in files.items() if file is not None}
    else:
        name = config.dataset_name
        assert name is not None
        known = _split_names(name, config.dataset_config_name)
        if known and "train" not in known:
            raise ValueError(f"{name} has no split named train; it has {', '.join(known)}")
        rows = {split: load(name, split) for split in SPLITS if split in known} or {"train": load(name)}
    shares = {"validation": config.validation_split, "test": config.test_split}
    bad = {name: split.bad for name, split in rows.items()}
    wanted = {name: 0 if name in rows else share for name, share in shares.items()}
    if any(wanted.values()):
        rows |= split_rows(rows["train"], wanted["validation"], wanted["test"], seed, by=compare[0], column=column)
    for name in SPLITS:
        if name not in rows:
            raise ValueError(f"there are no {name} rows: name a {name}_file, or set {name}_split above 0")
    for name, split in rows.items():
        split.bad = bad.get(name, [])
        split._split = NamedSplit(name)  # for messages; a public way to set it is missing
    logger.warning("rows: %s", ", ".join(f"{len(rows[name]):,} {name}" for name in SPLITS))
    find_leaks(rows, compare, column)
    return {name: rows[name] for name in SPLITS if name in rows}


def dialect_of(config: DataConfig) -> Dialect:
    return Dialect(config.delimiter, config.encoding, tuple(config.column_names))


def _split_names(dataset_name: str, config_name: str | None) -> list[str]:
    """Splits of a folder or of a data set on the Hub; [] where there is only one, nameless."""
    folder = Path(dataset_name).expanduser()
    if folder.is_dir() and config_name is None:
        return split_names(folder)
    from datasets import get_dataset_split_names

    try:
        return get_dataset_split_names(dataset_name, config_name)
    except Exception as error:  # the Hub client, the network and the data set's own files all raise what they like
        raise ValueError(
            f"dataset_name {dataset_name!r} is no folder here, and could not be found on the Hub: "
            f"{type(error).__name__}: {error}"
        ) from error


def find_leaks(rows: dict[str, Dataset], columns: Sequence[str], column: str = "") -> None:
    """Counts the held-out rows that stand in the training rows too: in the attribute `leaks` of their split (as
    `data.rows.leaks` gives them), and in the log if there are any, where the first of `columns` is called `column`."""
    for name, other in rows.items():
        if name == "train":
            continue
        other.leaks = leaks(rows["train"], other, columns)
        if other.leaks.inputs:
            alike = other.leaks.inputs - other.leaks.rows
            logger.warning(
                "leak: of %d %s rows %d stand in the training rows too%s; for example %s",
                *(
                    len(other),
                    name,
                    other.leaks.rows,
                    f", and of {alike} more the {column or columns[0]} does" if alike else "",
                ),
                other.leaks.examples[0],
                extra={"leaked": other.leaks.inputs},
            )


def sizes(rows: Mapping[str, Dataset]) -> str:
    """How many rows serve what, for a report's first sentence."""
    served = {"train": "to train on", "validation": "to choose by", "test": "to test on"}
    return ", ".join(f"{len(split):,} {served[name]}" for name, split in rows.items())
