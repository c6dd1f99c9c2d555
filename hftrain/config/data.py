"""Settings of the data: where the rows come from, and how their files are written."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from hftrain.config.schema import Config, InsteadOf, at_least, count_or_share


@dataclass
class DataConfig(Config):
    """Where the examples come from."""

    dataset_name: str | None = None
    """Data set on the Hugging Face Hub, or folder: written by save_to_disk, or with files named train, test, ..."""

    dataset_config_name: str | None = None
    """Configuration of the data set, for one that has several."""

    train_file: Annotated[str | None, InsteadOf("dataset_name")] = None
    """Training rows: json, jsonl, csv, tsv, parquet, arrow or txt, also .gz, .zst; a pattern (train-*.parquet), a
    folder."""

    validation_file: str | None = None
    """Rows to choose the best model by; goes with train_file."""

    test_file: str | None = None
    """Rows for the final score, seen by no choice; goes with train_file."""

    validation_split: Annotated[float, count_or_share] = 0.05
    """Rows set aside for validation where the data has none of its own: under 1 a share, else a number of rows."""

    test_split: Annotated[float, count_or_share] = 0.05
    """Rows set aside for the test where the data has none of its own: under 1 a share, else a number of rows."""

    delimiter: str | None = None
    """Character between the fields of csv, tsv and txt files; null: a comma in csv, TAB in tsv and txt."""

    encoding: str | None = None
    """Encoding of text files, windows-1252 for instance; null: UTF-8, or what a byte order mark says."""

    column_names: list[str] = field(default_factory=list)
    """Names of the columns of csv and tsv files whose first line is a row; empty: the first line names them."""

    max_bad_rows: Annotated[int, at_least(0)] = 0
    """Unusable rows (null, invalid UTF-8, no text) that may be left out, each listed; one more stops the run."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.dataset_name is None and self.train_file is None:
            yield ("dataset_name", "train_file"), "nothing to train on: set one of them"
        for name in ("validation_file", "test_file"):
            if getattr(self, name) is not None and self.train_file is None:
                yield (name, "dataset_name"), f"contradict each other: {name} goes with train_file"
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            yield ("delimiter",), f"is one character, as ; or | or TAB, got {self.delimiter!r}"
        if twice := sorted({name for name in self.column_names if self.column_names.count(name) > 1}):
            yield ("column_names",), f"has {twice[0]!r} twice: each column has a name of its own"
        try:
            "".encode(self.encoding or "utf-8")
        except LookupError:
            yield ("encoding",), f"unknown to Python: {self.encoding!r}; try windows-1252, latin-1 or utf-16"

    def __post_init__(self) -> None:
        self.delimiter = "\t" if self.delimiter in ("\\t", "TAB", "tab") else self.delimiter
        super().__post_init__()
        if self.encoding and codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig"):
            self.encoding = None
