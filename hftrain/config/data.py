"""Settings of the data: where the rows come from, and how their files are written."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from hftrain.config.schema import Config, InsteadOf, at_least, count_or_share, files
from hftrain.config.sources import read_source


@dataclass
class DataConfig(Config):
    """Where the examples come from."""

    dataset_name: str | None = None
    """Data set on the Hugging Face Hub, or folder: written by save_to_disk, or with files named train, test, ..."""

    dataset_config_name: str | None = None
    """Configuration of the data set, for one that has several."""

    train_file: Annotated[list[str] | None, files, InsteadOf("dataset_name")] = None
    """Training rows: json, jsonl, csv, tsv, parquet, arrow or txt, also .gz, .zst; a pattern (train-*.parquet), a
    folder; or several of these: a.jsonl b.csv. A weight may follow, a.jsonl@2.0 (each row is drawn twice), and a limit,
    b.csv#500 (500 rows, chosen by a hash)."""

    validation_file: Annotated[list[str] | None, files] = None
    """Rows to choose the best model by, likewise but without weights; goes with train_file."""

    test_file: Annotated[list[str] | None, files] = None
    """Rows for the final score, seen by no choice, likewise but without weights; goes with train_file."""

    validation_split: Annotated[float | None, count_or_share] = None
    """Rows set aside for validation where the data has none of its own: under 1 a share, else a number of rows; null: a
    tenth, at least 50 (or a fifth, if that is less), at most 2,000. Each class gets its share."""

    test_split: Annotated[float | None, count_or_share] = None
    """Rows set aside for the test where the data has none of its own, likewise."""

    folds: Annotated[int | None, at_least(2)] = None
    """Cross-validation: cut the rows into so many folds, and test each with a model that is trained on the others, in
    output_dir/fold-1, fold-2, ...; for data so few that one test set says little. null: one run."""

    fold: Annotated[int | None, at_least(1)] = None
    """Train and test this one of the folds, counted from 1; null: all of them, one after another."""

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
        for name in ("train_file", "validation_file", "test_file"):
            try:
                sources = [read_source(written) for written in getattr(self, name) or ()]
            except ValueError as error:
                yield (name,), str(error)
                continue
            if name != "train_file" and any(source.weight != 1 for source in sources):
                yield (name,), "takes no weights (@): each of its rows counts once"
            names = [source.name for source in sources]
            if twice := [name for name in names if names.count(name) > 1]:
                yield (name,), f"names {twice[0]} twice" + ("; a weight says so: @2" if name == "train_file" else "")
        if self.fold is not None and (self.folds is None or self.fold > self.folds):
            yield ("fold", "folds"), f"fold {self.fold} is one of how many? set folds, to that number or more"
        if self.folds is not None and self.test_file is not None:
            yield ("folds", "test_file"), "contradict each other: with folds each row is tested once; leave one out"
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            yield ("delimiter",), f"is one character, as ; or | or TAB, got {self.delimiter!r}"
        if twice := sorted({name for name in self.column_names if self.column_names.count(name) > 1}):
            yield ("column_names",), f"has {twice[0]!r} twice: each column has a name of its own"
        try:
            "".encode(self.encoding or "utf-8")
        except LookupError:
            yield ("encoding",), f"unknown to Python: {self.encoding!r}; try windows-1252, latin-1 or utf-16"

    @property
    def trained_on(self) -> str:
        """The training data for people."""
        return ", ".join(self.train_file) if self.train_file else str(self.dataset_name)

    @property
    def tested_on(self) -> str:
        """What the test rows are of, for people."""
        return ", ".join(self.test_file) if self.test_file else self.trained_on

    def __post_init__(self) -> None:
        self.delimiter = "\t" if self.delimiter in ("\\t", "TAB", "tab") else self.delimiter
        super().__post_init__()
        if self.encoding and codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig"):
            self.encoding = None
