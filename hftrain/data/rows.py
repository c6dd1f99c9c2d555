"""Rows of text: from a file, a folder or the Hub to a `datasets.Dataset` with the columns a recipe asks for.

Text formats are read line by line with readers of our own, because a fault must name its file, line and reason; nothing
is guessed, repaired or dropped unless `max_bad_rows` allows it, and then each row left out is listed.
"""

from __future__ import annotations

import array
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hftrain.data.readers import (
    BATCH_ROWS,
    Fault,
    Item,
    did_you_mean,
    missing,
    read_aligned,
    read_csv,
    read_fields,
    read_json,
    read_jsonl,
    read_tsv,
    texts,
)
from hftrain.data.tables import Tables, arrow_tables, hub_tables, parquet_tables, read_tables, saved_tables

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


class BadRow(NamedTuple):
    """A row that is no row: `place` is "line 7" (1-based, where the row starts) or, in columnar files, "row 7"."""

    file: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, {self.place}: {self.reason}"


class Places(NamedTuple):
    """Where rows stand in their source: `numbers` (N,) of lines or rows, as `unit` says."""

    file: str
    unit: str
    numbers: np.ndarray

    def bad(self, index: int, reason: str) -> BadRow:
        """What is wrong with the row of this index."""
        return BadRow(self.file, f"{self.unit} {self.numbers[index]}", reason)


class Leaks(NamedTuple):
    """Rows of a held-out set that stand in the training set too."""

    rows: int  # equal in every column compared
    inputs: int  # equal in the first column alone, whatever stands in the others (counts the above again)
    examples: list[dict[str, str]]  # the first five of `inputs`


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
    reader: Callable[[Path], Iterator[Item] | None] | None = None,
) -> Dataset:
    """Rows with the columns named by the keys of `columns`, of text unless `read` and `schema` say otherwise.

    `source` is one of

    - `.jsonl`, or `.json` (an array of objects, or JSON lines);
    - `.csv` (RFC 4180) or `.tsv` (no quoting: a field is what stands between TABs); the first line names the columns;
    - `.txt` or a text file with any other ending: a row a line; where two columns are asked for, a line is a pair with
      a TAB between, in the order of `columns`, whose values are not looked at;
    - a path with `{lang}` in it: one text file for each of `languages`, aligned by line, in the order of `columns`;
    - `.parquet`, `.arrow` (file or stream);
    - a folder written by `save_to_disk`, or a name on the Hub (`config_name`, `split`).

    Text may be gzipped (`.gz`). It is UTF-8, with or without a byte order mark; lines end in LF or CRLF.

    Args:
        columns: our name -> the name in the source; a dot reaches into a nested column: `{"source": "translation.de"}`;
            "" is the whole row, as a dict.
        split: which split of a `DatasetDict` or a Hub data set; needed where there is more than one.
        languages: what replaces `{lang}`, one for each of `columns`.
        max_bad_rows: up to this many bad rows (not UTF-8, missing column, null, empty, not text, broken JSON or CSV)
            are left out, each with a line in the log. Faults of the whole file fail all the same.
        read: (values, what to call each of them in a message) of `columns` -> the row's values, one for each field of
            `schema`; raises `readers.Fault` for a row that cannot be used. The default takes text that says something.
        schema: of what `read` gives, where that is not a string for each of `columns`.
        reader: of a format of the caller's own: a path -> its rows as (line, values of `columns` or a Fault), or None
            where the file is not of this format.

    Returns:
        A `Dataset` whose `_fingerprint` is `fingerprint(rows)`; its attribute `bad` lists the rows left out, and
        `places` knows where the others stand.

    Raises:
        ValueError: more bad rows than allowed (the first ten are listed), or a fault of the whole file.
    """
    from datasets import Dataset

    if not columns:
        raise ValueError("columns: name at least one column to read")
    if max_bad_rows < 0:
        raise ValueError(f"max_bad_rows must not be negative, got {max_bad_rows}")
    file = str(Path(source).expanduser())
    items = reader(Path(file)) if reader and Path(file).is_file() else None
    opened = Reader("line", list(columns), items) if items else open_rows(file, columns, split, config_name, languages)

    schema = schema or pa.schema([(name, pa.string()) for name in columns])
    batches: list[pa.RecordBatch] = []
    bad: list[BadRow] = []
    pending: list[Sequence[Any]] = []
    numbers = array.array("q")

    def flush() -> None:
        arrays = [
            pa.array(values, field.type) for values, field in zip(zip(*pending, strict=True), schema, strict=True)
        ]
        batches.append(pa.record_batch(arrays, schema=schema))
        pending.clear()

    for number, values in opened.items:
        try:
            if isinstance(values, Fault):
                raise values
            pending.append(read(values, opened.names))
            numbers.append(number)
        except Fault as fault:
            bad.append(BadRow(file, f"{opened.unit} {number}", str(fault)))
            if len(bad) > max(max_bad_rows, 9):  # enough to fail, and to show the user a pattern
                break
        if len(pending) == BATCH_ROWS:
            flush()
    if len(bad) > max_bad_rows:
        raise ValueError(
            f"bad rows in {file}, max_bad_rows is {max_bad_rows}; the first {min(len(bad), 10)}:\n{listed(bad)}\n"
            "Mend them, or raise max_bad_rows to leave that many out."
        )
    if pending:
        flush()
    if not batches:
        raise ValueError(f"{file} is empty: no rows in it" + (f" but {len(bad)} bad ones" if bad else ""))
    for row in bad:
        logger.warning("left out: %s", row, extra={"refused": 1})

    table = pa.Table.from_batches(batches, schema)
    rows = Dataset(table, fingerprint=_hash_tables([table]))
    rows.bad = bad
    rows.places = Places(file, opened.unit, np.array(numbers))
    return rows


def listed(bad: Sequence[BadRow]) -> str:
    """A line for each of the first ten; two where all have one reason."""
    if len({row.reason for row in bad}) == 1 < len(bad):
        return f"  {bad[0]}\n  and the same: {', '.join(row.place for row in bad[1:10])}"
    return "\n".join(f"  {row}" for row in bad[:10])


def fingerprint(rows: Dataset) -> str:
    """sha256 (hex) of what the rows say: column names and values in order, wherever they came from."""
    return _hash_tables(rows.with_format("arrow").iter(BATCH_ROWS))


def split_rows(
    rows: Dataset, validation_split: float, test_split: float, seed: int, *, by: str = "source"
) -> dict[str, Dataset]:
    """Cut `rows` into train, validation and test, each in the order of `rows`.

    The order of drawing is a keyed hash of the text in column `by`: the same on every platform, blind to the order of
    the rows, and rows that share this text always land on the same side.

    Args:
        validation_split, test_split: under 1 a share of the rows, else a number of rows. Exact where no text is
            repeated; of a repeated text all rows are taken or none, so there may be a few rows less.

    Returns:
        {"train", "validation", "test"}; a split of 0 has no entry.

    Raises:
        ValueError: an unknown column, a negative size, or sizes that leave a split without rows.
    """
    if by not in rows.column_names:
        raise ValueError(missing(by, rows.column_names))
    sizes = {}
    for name, share in (("test", test_split), ("validation", validation_split)):
        if share < 0 or (share >= 1 and share != int(share)):
            raise ValueError(f"{name}_split must be a share under 1 or a whole number of rows, got {share}")
        sizes[name] = int(share) if share >= 1 else round(share * len(rows))
        if share and not sizes[name]:
            way_out = f"raise it (from 1 on it counts rows), or give a {name}_file"
            raise ValueError(f"{name}_split {share} of {len(rows)} rows is not one row: {way_out}")
    if sum(sizes.values()) >= len(rows):
        raise ValueError(f"the splits {sizes} leave none of {len(rows)} rows to train on")

    key = seed.to_bytes(8, "big", signed=True)
    digests = b"".join(
        hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for (text,) in _iterate(rows, [by])
    )
    # A collision of 64 bits would put two texts on the same side, which harms nothing.
    _, group_of_row, group_sizes = np.unique(np.frombuffer(digests, ">u8"), return_inverse=True, return_counts=True)
    split_of_group = np.zeros(len(group_sizes), dtype=np.int8)
    for split, (name, size) in enumerate(sizes.items(), start=1):
        room = size
        for group in np.flatnonzero(split_of_group == 0):
            if not room:
                break
            if group_sizes[group] <= room:
                split_of_group[group] = split
                room -= group_sizes[group]
        if size and room == size:
            raise ValueError(
                f"{name}_split: rows with the same {by!r} stay together, and each stands in more than {size} rows: "
                f"raise {name}_split, or name a {name}_file"
            )
    split_of_row = split_of_group[group_of_row]
    if not (split_of_row == 0).any():
        raise ValueError(f"the splits {sizes} leave no row to train on: too few different texts in column {by!r}")
    parts = {}
    for name, split in {"train": 0, "validation": 2, "test": 1}.items():
        if name == "train" or sizes[name]:
            chosen = np.flatnonzero(split_of_row == split)
            parts[name] = rows.select(chosen)
            if places := getattr(rows, "places", None):
                parts[name].places = places._replace(numbers=places.numbers[chosen])
    return parts


def leaks(train: Dataset, other: Dataset, columns: Sequence[str] = ("source", "target")) -> Leaks:
    """Count the rows of `other` that stand in `train`: in all `columns`, and in the first of them alone."""
    wanted = list(_iterate(other, columns))
    inputs = {row[0] for row in wanted}
    seen = {row for row in _iterate(train, columns) if row[0] in inputs}
    seen_inputs = {row[0] for row in seen}
    leaked = [row for row in wanted if row[0] in seen_inputs]
    examples = [dict(zip(columns, row, strict=True)) for row in leaked[:5]]
    return Leaks(sum(row in seen for row in leaked), len(leaked), examples)


COLUMNAR: dict[str, Callable[[Path], Tables]] = {".parquet": parquet_tables, ".arrow": arrow_tables}
TEXTUAL: dict[str, Callable[[Path, list[str]], Iterator[Item]]] = {
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_tsv,
}


class Reader(NamedTuple):
    """An opened source: what a place in it is called ("line", "row") and what each value of a row is called."""

    unit: str
    names: list[str]
    items: Iterator[Item]


def open_rows(
    source: str, columns: dict[str, str], split: str | None, config_name: str | None, languages: Sequence[str]
) -> Reader:
    """The reader for a source; `columns` and the rest are those of `load_rows`."""
    wanted = list(columns.values())
    named = [f"column {column!r}" for column in wanted]
    path = Path(source)
    if "{lang}" in source:
        if len(languages) != len(columns):
            raise ValueError(
                f"{source}: {{lang}} stands for {len(columns)} languages ({', '.join(columns)}), "
                f"got {list(languages)}; set source_lang and target_lang"
            )
        paths = [existing(Path(source.replace("{lang}", language))) for language in languages]
        return Reader("line", [path.name for path in paths], read_aligned(paths))
    if path.is_dir():
        return Reader("row", named, read_tables(source, saved_tables(path, split), wanted))
    if is_hub_name(source):
        return Reader("row", named, read_tables(source, hub_tables(source, config_name, split), wanted))
    path, kind = existing(path), ending(path)
    if kind in COLUMNAR:
        return Reader("row", named, read_tables(source, COLUMNAR[kind](path), wanted))
    if kind in TEXTUAL:
        return Reader("line", named, TEXTUAL[kind](path, wanted))
    names = [f"field {number} ({name})" for number, name in enumerate(columns, 1)]
    lines = read_fields(path, list(columns))
    if wanted == [""]:
        lines = ((number, line if isinstance(line, Fault) else [{"text": line[0]}]) for number, line in lines)
    return Reader("line", names, lines)


def ending(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def is_hub_name(source: str) -> bool:
    """Whether `source`, being no path here and without the ending of a file, can be a name on the Hub."""
    kind = ending(Path(source))
    known = kind in COLUMNAR or kind in TEXTUAL or kind == ".txt"
    if kind and Path(source).parent.is_dir():  # a file's name, mistyped
        known |= bool(did_you_mean(source, map(str, Path(source).parent.iterdir())))
    return not known and not Path(source).exists() and bool(re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source))


def existing(path: Path) -> Path:
    """`path`, a file. Raises: ValueError, there is none; the nearest name beside it."""
    if path.is_file():
        return path
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ValueError(f"no file {path}" + did_you_mean(path.name, beside))


def _iterate(rows: Dataset, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The rows' values, each as text, so that lists can be compared and counted too."""
    return chain.from_iterable(
        zip(*(map(_as_text, batch[column]) for column in columns), strict=True) for batch in rows.iter(BATCH_ROWS)
    )


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _hash_tables(tables: Iterable[pa.Table]) -> str:
    """Hash of the names, lengths and bytes of the values: the same however the rows are cut into batches."""
    columns: dict[str, Any] = {}
    for table in tables:
        table = table.combine_chunks()  # rows picked by index come as a chunk each
        for name in table.column_names:
            lengths, values = columns.setdefault(name, (hashlib.sha256(), hashlib.sha256()))
            for chunk in table.column(name).chunks:
                if not pa.types.is_string(chunk.type):  # any other type, slower
                    chunk = pa.array([repr(value) for value in chunk.to_pylist()], pa.string())
                lengths.update(pc.binary_length(chunk).fill_null(-1).to_numpy().astype("<i8").tobytes())
                whole = pa.ListArray.from_arrays(pa.array([0, len(chunk)], pa.int32()), chunk.fill_null(""))
                values.update(pc.binary_join(whole, "")[0].as_buffer())
    said = [(name, lengths.hexdigest(), values.hexdigest()) for name, (lengths, values) in columns.items()]
    return hashlib.sha256(repr(said).encode()).hexdigest()
