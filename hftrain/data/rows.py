"""Rows of text: from a file, a folder or the Hub to `Rows` with the columns that a recipe needs.

Our own readers read text formats line by line, because a fault must name its file, line and reason. Nothing is guessed
or repaired; rows are left out only if `max_bad_rows` allows it, and each of them is listed.
"""

from __future__ import annotations

import array
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hftrain.data.lines import USUAL, Dialect, Fault
from hftrain.data.readers import BATCH_ROWS, Item, texts
from hftrain.data.sources import Reader, open_rows
from hftrain.data.unread import Unread

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


class BadRow(NamedTuple):
    """A row that cannot be used: `place` is "line 7" (1-based, where the row starts) or, in columnar files, "row 7"."""

    file: str
    place: str
    reason: str
    advice: str = Fault.advice

    def __str__(self) -> str:
        return f"{self.file}, {self.place}: {self.reason}"


class Places(NamedTuple):
    """The places of N rows in their source.

    files: (name, "line" or "row") of each file; of_file (N,): the file of each row; numbers (N,): its line or row;
    sources: the data set of each file, if there are several.
    """

    files: list[tuple[str, str]]
    of_file: np.ndarray
    numbers: np.ndarray
    sources: Sequence[str] = ()

    @classmethod
    def counted(cls, rows: int) -> Places:
        """The places of rows that come from no file."""
        return cls([("the rows", "row")], np.zeros(rows, int), np.arange(1, rows + 1))

    def select(self, chosen: np.ndarray) -> Places:
        return self._replace(of_file=self.of_file[chosen], numbers=self.numbers[chosen])

    def bad(self, index: int, reason: str) -> BadRow:
        """The row of this index as a bad row."""
        file, unit = self.files[self.of_file[index]]
        return BadRow(file, f"{unit} {self.numbers[index]}", reason)


class Leaks(NamedTuple):
    """Counts of the rows of a held-out split that are in the training rows too."""

    rows: int  # equal in every compared column
    inputs: int  # equal in the first column at least (includes `rows`)
    examples: list[dict[str, str]]  # the first five of `inputs`


@dataclass(frozen=True, eq=False)
class Rows(Sequence[Any]):
    """Rows of a task, with their origin.

    Attributes:
        data: the `datasets.Dataset` that holds them.
        bad: rows of the source that were left out.
        places: the place of each row in its source; None without a file.
        leaks: counts of rows that are in the training rows too; for held-out splits.
        split: "train", "validation" or "test"; "" if not yet assigned.
        classes: all classes of the label column, if the data define them.
    """

    data: Dataset
    bad: Sequence[BadRow] = ()
    places: Places | None = None
    leaks: Leaks | None = None
    split: str = ""
    classes: Sequence[str] = ()

    @classmethod
    def of(cls, rows: Rows | Dataset) -> Rows:
        """`rows` if they are `Rows`; otherwise as `Rows` of unknown origin."""
        return rows if isinstance(rows, Rows) else cls(rows, split=str(rows.split or ""))

    @property
    def fingerprint(self) -> str:
        """Identifies the content of the rows."""
        return str(self.data._fingerprint)

    @property
    def column_names(self) -> list[str]:
        return list(self.data.column_names)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Any) -> Any:
        """The row of an index, or the column of a name."""
        return self.data[key]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.data)

    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]:
        """Batches of rows: column -> values."""
        batches: Iterator[dict[str, list[Any]]] = self.data.iter(batch_size)
        return batches

    def select(self, chosen: Sequence[int] | np.ndarray) -> Rows:
        """The rows of these indices, with their places."""
        places = None if self.places is None else self.places.select(np.asarray(chosen))
        return replace(self, data=self.data.select(chosen), places=places, leaks=None)


def load_rows(
    source: str | Path,
    *,
    columns: dict[str, str],
    split: str | None = None,
    config_name: str | None = None,
    languages: Sequence[str] = (),
    max_bad_rows: int = 0,
    read: Callable[[list[Any], list[str]], Sequence[Any]] = texts,
    schema: pa.Schema | None = None,
    reader: Callable[[Path], Iterator[Item] | Reader | None] | None = None,
    dialect: Dialect = USUAL,
    unread: Unread | None = None,
    endings: Sequence[str] = (),
    resolve: Callable[[Path, list[Any]], list[Any]] | None = None,
    finish: Callable[[list[Sequence[Any]]], Sequence[Sequence[Any] | Fault]] | None = None,
) -> Rows:
    """Rows with the columns named by the keys of `columns`, as text unless `read` and `schema` change that.

    `source` is one of

    - `.jsonl` (`.ndjson`, `.jsonlines`) or `.json`: objects, one per line or one after another, an array of objects, or
    one
      object with the array under a key;
    - `.csv` (RFC 4180) or `.tsv` (no quoting: TABs separate the fields); the first line names the columns;
    - `.txt` or `.md`: one row per line; if two columns are needed, a line is a pair separated by a TAB, in the order of
      `columns`, whose values are ignored;
    - a path with `{lang}` in it: one text file for each of `languages`, aligned by line, in the order of `columns`;
    - `.parquet`, `.arrow` (file or stream);
    - a pattern (`data/train-*.parquet`), or a folder with files of one of these kinds: all of them, in the order of
      their names; if the names contain splits, only those of `split`;
    - a folder written by `save_to_disk`, or a name on the Hub (`config_name`, `split`).

    Endings are compared without case. Text may be compressed (gzip, bzip2, xz, zstd). It is UTF-8, with or without a
    byte order mark, unless `dialect` or another mark names an encoding; lines end with LF or CRLF.

    Args:
        columns: our name -> the name in the source; a dot reaches into a nested column: `{"source": "translation.de"}`;
            "" is the whole row, as a dict.
        split: the split of a `DatasetDict` or a Hub data set; needed if there are several.
        languages: the values of `{lang}`, one for each of `columns`.
        max_bad_rows: up to this many bad rows (not UTF-8, missing column, null, empty, not text, broken JSON or CSV)
            are left out, each with a line in the log. Faults of the whole file always raise.
        read: (values, their names for messages) of `columns` -> the row's values, one for each field of
            `schema`; raises `readers.Fault` for a row that cannot be used. The default accepts non-empty text.
        schema: types of the values of `read`, if they are not a string for each of `columns`.
        reader: a reader for another format: a path -> its rows as (line, values of `columns` or a Fault), or None if
            the file has another format.
        dialect: delimiter and encoding of text files, if they are unusual.
        unread: counts the other columns of the rows, which are not read.
        endings: of files for `reader`; a folder is searched for them if no other files in it have rows.
        resolve: (file, values of a row) -> the values, if they name files relative to it.
        finish: values of `read` of several rows -> the values to keep of each row, or a Fault.

    Returns:
        The rows; their fingerprint is `fingerprint(rows)`, `bad` lists the rows left out, `places` has the places of
        the others.

    Raises:
        ValueError: there are more bad rows than allowed (the message lists ten), or the whole file is faulty.
    """
    if not columns:
        raise ValueError("columns: name at least one column to read")
    if max_bad_rows < 0:
        raise ValueError(f"max_bad_rows must not be negative, got {max_bad_rows}")
    name = str(Path(source).expanduser())
    readers = open_rows(name, columns, split, config_name, languages, dialect, reader, unread, endings, resolve)

    schema = schema or pa.schema([(name, pa.string()) for name in columns])
    batches: list[pa.RecordBatch] = []
    bad: list[BadRow] = []
    pending: list[Sequence[Any]] = []
    waiting: list[tuple[int, int]] = []  # file and number of each pending row
    files: list[tuple[str, str]] = []
    of_file, numbers = array.array("q"), array.array("q")

    def blame(file: int, number: int, fault: Fault) -> None:
        path, unit = files[file]
        bad.append(BadRow(path, f"{unit} {number}", str(fault), fault.advice))

    def flush() -> None:
        rows: list[Sequence[Any]] = pending
        if finish:
            rows = []
            for place, values in zip(list(waiting), finish(pending), strict=True):
                if isinstance(values, Fault):
                    waiting.remove(place)
                    blame(*place, values)
                else:
                    rows.append(values)
        if rows:
            arrays = [
                pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            batches.append(pa.record_batch(arrays, schema=schema))
            of_file.extend(file for file, _ in waiting)
            numbers.extend(number for _, number in waiting)
        pending.clear()
        waiting.clear()

    for file, (number, values) in ((reader, item) for reader in readers for item in reader.items):
        if files[-1:] != [(file.file, file.unit)]:
            files.append((file.file, file.unit))
        try:
            if isinstance(values, Fault):
                raise values
            pending.append(read(values, file.names))
            waiting.append((len(files) - 1, number))
        except (Fault, RecursionError) as error:
            fault = error if isinstance(error, Fault) else Fault("nested too deep to be read")
            blame(len(files) - 1, number, fault)
        if len(pending) == BATCH_ROWS:
            flush()
        if len(bad) > max(max_bad_rows, 9):  # enough to fail, and to show the user a pattern
            break
    if pending and len(bad) <= max(max_bad_rows, 9):
        flush()
    if len(bad) > max_bad_rows:
        raise ValueError(
            f"bad rows in {name}, max_bad_rows is {max_bad_rows}; the first {min(len(bad), 10)}:\n{listed(bad)}\n"
            f"{advice(bad)}"
        )
    if not batches:
        raise ValueError(f"{name} is empty: no rows in it" + (f" but {len(bad)} bad ones" if bad else ""))
    for row in bad:
        logger.warning("left out: %s", row)

    table = pa.Table.from_batches(batches, schema)
    return Rows(dataset(table), bad, Places(files, np.array(of_file), np.array(numbers)))


def dataset(table: pa.Table) -> Dataset:
    """A table as a data set with a fingerprint of its content."""
    from datasets import Dataset

    return Dataset(table, fingerprint=_hash_tables([table]))


def advice(bad: Sequence[BadRow]) -> str:
    """Advice on bad rows, beginning with the specific advice of a row, if any."""
    return min((row.advice for row in bad), key=Fault.advice.__eq__)


def listed(bad: Sequence[BadRow]) -> str:
    """A line for each of the first ten, or two lines if all have the same reason."""
    if len({(row.file, row.reason) for row in bad}) == 1 < len(bad):
        return f"  {bad[0]}\n  and the same: {', '.join(row.place for row in bad[1:10])}"
    return "\n".join(f"  {row}" for row in bad[:10])


def fingerprint(rows: Rows | Dataset) -> str:
    """sha256 (hex) of the content of the rows: column names and values in order, independent of their origin."""
    return _hash_tables(Rows.of(rows).data.with_format("arrow").iter(BATCH_ROWS))


def leaks(train: Rows | Dataset, other: Rows | Dataset, columns: Sequence[str] = ("source", "target")) -> Leaks:
    """Counts the rows of `other` that are in `train`: equal in all `columns`, and in the first of them."""
    wanted = list(iterate(other, columns))
    inputs = {row[0] for row in wanted}
    seen = {row for row in iterate(train, columns) if row[0] in inputs}
    seen_inputs = {row[0] for row in seen}
    leaked = [row for row in wanted if row[0] in seen_inputs]
    examples = [dict(zip(columns, row, strict=True)) for row in leaked[:5]]
    return Leaks(sum(row in seen for row in leaked), len(leaked), examples)


def iterate(rows: Rows | Dataset, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The rows' values, each as text, so that lists can be compared and counted too."""
    return chain.from_iterable(
        zip(*(map(_as_text, batch[column]) for column in columns), strict=True) for batch in rows.iter(BATCH_ROWS)
    )


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _hash_tables(tables: Iterable[pa.Table]) -> str:
    """Hash of the names, lengths and bytes of the values: the same however the rows are cut into batches."""
    columns: dict[str, Any] = {}
    for table in tables:
        table = table.combine_chunks()  # rows picked by index are one chunk each
        for name in table.column_names:
            lengths, values = columns.setdefault(name, (hashlib.sha256(), hashlib.sha256()))
            for chunk in table.column(name).chunks:
                if not pa.types.is_string(chunk.type):  # any other type, slower
                    chunk = pa.array([repr(value) for value in chunk.to_pylist()], pa.string())
                lengths.update(pc.binary_length(chunk).fill_null(-1).to_numpy().astype("<i8").tobytes())
                row = pa.ListArray.from_arrays(pa.array([0, len(chunk)], pa.int32()), chunk.fill_null(""))
                values.update(pc.binary_join(row, "")[0].as_buffer())
    hashes = [(name, lengths.hexdigest(), values.hexdigest()) for name, (lengths, values) in columns.items()]
    return hashlib.sha256(repr(hashes).encode()).hexdigest()
