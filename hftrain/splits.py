"""Training, validation and test rows as a configuration asks for them, and a count of what leaks between them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hftrain.config import DataConfig
from hftrain.data.rows import leaks, load_rows, split_rows

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


def load_splits(
    config: DataConfig, *, columns: dict[str, str], languages: Sequence[str] = (), seed: int = 42
) -> dict[str, Dataset]:
    """{"train", "validation", "test"}: each from its file or the data set's own split, else cut off the training rows.

    `columns` and `languages` are as in `load_rows`. Leaks between the splits are counted, and reported in the log.

    Raises:
        ValueError: rows that cannot be used, or splits that leave nothing.
    """

    def load(source: str, split: str | None = None) -> Dataset:
        return load_rows(
            source,
            columns=columns,
            split=split,
            config_name=config.dataset_config_name,
            languages=languages,
            max_bad_rows=config.max_bad_rows,
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
    wanted = {name: 0 if name in rows else share for name, share in shares.items()}
    if any(wanted.values()):
        rows |= split_rows(rows["train"], wanted["validation"], wanted["test"], seed)
    for name in SPLITS:
        if name not in rows:
            raise ValueError(f"there are no {name} rows: name a {name}_file, or set {name}_split above 0")
    report_leaks(rows, list(columns))
    return {name: rows[name] for name in SPLITS if name in rows}


def _split_names(dataset_name: str, config_name: str | None) -> list[str]:
    """Splits of a `DatasetDict` folder or of a data set on the Hub; [] where there is only one, nameless."""
    folder = Path(dataset_name)
    if (folder / "dataset_dict.json").is_file():
        return json.loads((folder / "dataset_dict.json").read_text())["splits"]
    if folder.exists():
        return []
    from datasets import get_dataset_split_names

    try:
        return get_dataset_split_names(dataset_name, config_name)
    except Exception as error:  # the Hub client, the network and the data set's own files all raise what they like
        raise ValueError(
            f"dataset_name {dataset_name!r} is no folder here, and could not be found on the Hub: "
            f"{type(error).__name__}: {error}"
        ) from error


def report_leaks(rows: dict[str, Dataset], columns: Sequence[str]) -> None:
    """Counts in the log the rows of the other splits that stand in the training rows too."""
    for name, other in rows.items():
        if name == "train":
            continue
        found = leaks(rows["train"], other, columns)
        if found.inputs:
            logger.warning(
                "leak: of %d %s rows %d stand in the training rows, %d with their %s alone; for example %s",
                *(len(other), name, found.rows, found.inputs - found.rows, columns[0], found.examples[0]),
            )
