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
    """Data set on the Hugging Face Hub, or a folder: one written by save_to_disk, or one with files named train, test,
    ..."""

    dataset_config_name: str | None = None
    """Configuration of the data set, if it has several."""

    train_file: Annotated[list[str] | None, files, InsteadOf("dataset_name")] = None
    """Training rows: json, jsonl, csv, tsv, xlsx, parquet, arrow or txt, also .gz, .zst; a pattern (train-*.parquet),
    a folder; or several of these: a.jsonl b.csv. A weight (a.jsonl@2.0: each row is drawn twice) or a limit (b.csv#500:
    500 rows, chosen by a hash) may follow the name."""

    validation_file: Annotated[list[str] | None, files] = None
    """Rows by which the best model is selected, in the same formats, without weights; used with train_file."""

    test_file: Annotated[list[str] | None, files] = None
    """Rows for the final score, never used for selection, in the same formats, without weights; used with
    train_file."""

    validation_split: Annotated[float | None, count_or_share] = None
    """Rows held out for validation if the data has no validation set: under 1 a share, else a number of rows; null: a
    tenth of 1,000 rows and more, at most 2,000; a twentieth of fewer rows. The split is stratified by class."""

    test_split: Annotated[float | None, count_or_share] = None
    """Rows held out for the test if the data has no test set: under 1 a share, else a number of rows; null: a tenth, at
    least 50 (or a fifth, if that is less), at most 2,000. The split is stratified by class."""

    folds: Annotated[int | None, at_least(2)] = None
    """Cross-validation: split the rows into this many folds and test each with a model trained on the others, in
    output_dir/fold-1, fold-2, ...; useful when there are few rows. null: one run."""

    fold: Annotated[int | None, at_least(1)] = None
    """Run only this fold, counted from 1; null: all folds, one after another."""

    delimiter: str | None = None
    """Field separator of csv, tsv and txt files; null: a comma in csv, TAB in tsv and txt."""

    encoding: str | None = None
    """Encoding of text files, for example windows-1252; null: UTF-8, or as the byte order mark says."""

    column_names: list[str] = field(default_factory=list)
    """Column names of csv and tsv files without a header line; empty: the first line is the header."""

    max_bad_rows: Annotated[int, at_least(0)] = 0
    """Number of unusable rows (null, invalid UTF-8, no text) that may be skipped, each listed; one more stops the
    run."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.dataset_name is None and self.train_file is None:
            yield ("dataset_name", "train_file"), "nothing to train on: set one of them"
        for name in ("validation_file", "test_file"):
            if getattr(self, name) is not None and self.train_file is None:
                yield (name, "dataset_name"), f"contradict each other: {name} needs train_file"
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
                yield (
                    (name,),
                    f"contains {twice[0]} twice" + ("; to repeat it, set a weight: @2" if name == "train_file" else ""),
                )
        if self.fold is not None and (self.folds is None or self.fold > self.folds):
            yield ("fold", "folds"), f"fold {self.fold} needs folds: set folds to {self.fold} or more"
        if self.folds is not None and self.test_file is not None:
            yield ("folds", "test_file"), "contradict each other: with folds each row is a test row once; set only one"
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            yield ("delimiter",), f"must be one character, such as ; or | or TAB, not {self.delimiter!r}"
        if twice := sorted({name for name in self.column_names if self.column_names.count(name) > 1}):
            yield ("column_names",), f"has {twice[0]!r} twice: each column needs its own name"
        try:
            "".encode(self.encoding or "utf-8")
        except LookupError:
            yield ("encoding",), f"is unknown to Python: {self.encoding!r}; try windows-1252, latin-1 or utf-16"

    @property
    def trained_on(self) -> str:
        """The training data, in words."""
        return ", ".join(self.train_file) if self.train_file else str(self.dataset_name)

    @property
    def tested_on(self) -> str:
        """The origin of the test rows, in words."""
        return ", ".join(self.test_file) if self.test_file else self.trained_on

    def __post_init__(self) -> None:
        self.delimiter = "\t" if self.delimiter in ("\\t", "TAB", "tab") else self.delimiter
        super().__post_init__()
        if self.encoding and codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig"):
            self.encoding = None
