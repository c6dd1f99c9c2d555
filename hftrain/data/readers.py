"""Readers of text files: each yields the line of a row (from 1) and the row's values, or a Fault."""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice, zip_longest
from pathlib import Path
from typing import Any, Literal

from hftrain.data.lines import MAX_LINE, USUAL, Dialect, Fault, decode, raw_lines
from hftrain.data.sheets import read_cells
from hftrain.data.unread import Unread

BATCH_ROWS = 10_000
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "TABs", "|": "bars"}
PEEKED = 20  # lines of a text file that are checked before it is read as text

csv.field_size_limit(MAX_LINE)

Item = tuple[int, "list[Any] | Fault"]


def did_you_mean(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


NO_COLUMN = re.compile(r"\bno column '.+?'; there are ")  # as `missing` writes it


def missing(column: str, present: Iterable[str]) -> str:
    present = list(present)
    return f"no column {column!r}; there are {', '.join(map(repr, present))}" + did_you_mean(column, present)


# ---- values


def text(value: object, name: str) -> str:
    """The value if it is non-empty text; messages call it `name`. Raises: Fault."""
    if value is None:
        raise Fault(f"{name} is null")
    if not isinstance(value, str):
        raise Fault(f"{name} is not text but {type(value).__name__}: {value!r:.60}")
    if not value or value.isspace():
        raise Fault(f"{name} is empty")
    if not value.isascii():
        _check_surrogates(value, name)
    return value


def texts(values: list[Any], names: list[str]) -> list[str]:
    """`text` of each value. Raises: Fault."""
    return [text(value, name) for value, name in zip(values, names, strict=True)]


def _check_surrogates(value: str, name: str) -> None:
    """Raises Fault for half a surrogate pair, which JSON can spell but UTF-8 cannot encode."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Fault(f"{name} contains {value[error.start]!r}, half a surrogate pair, which is not text") from None


def pick(record: object, column: str) -> Any:
    """The value of a column in a JSON object: a dot reaches into nested objects, "" is the whole object."""
    if not isinstance(record, dict):
        raise Fault(f"not an object with columns but {type(record).__name__}: {record!r:.60}")
    if column == "":
        return record
    if column in record:
        return record[column]
    value: Any = record
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            raise Fault(missing(column, _dotted(record)))
        value = value[part]
    return value


def top(columns: Iterable[str]) -> set[str]:
    """The top-level columns of a row that contain `columns`."""
    return {name for column in columns for name in (column, column.partition(".")[0])}


def _dotted(record: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name


# ---- text files


def fault_between(faults: dict[int, Fault], first: int, last: int) -> Fault | None:
    """The first fault of lines `first` .. `last`; faults up to `last` are removed."""
    if not faults:
        return None
    first_fault = None
    for number in [number for number in faults if number <= last]:
        fault = faults.pop(number)
        first_fault = first_fault or (fault if number >= first else None)
    return first_fault


def check_text(path: Path, encoding: str | None = None) -> None:
    """Raises: ValueError, the first lines of the text file are JSON objects."""
    lines = [raw.strip() for _, raw in islice(raw_lines(path, encoding), PEEKED) if not raw.isspace()]
    if lines and (lines[0] in (b"{", b"[", b"[{") or all(line.startswith(b"{") and parses(line) for line in lines)):
        raise ValueError(f"{path} contains JSON but would be read as text: rename it to .jsonl (or .json)")


def parses(raw: bytes) -> bool:
    """Whether a line is JSON."""
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def read_fields(path: Path, ours: list[str], dialect: Dialect = USUAL) -> Iterator[Item]:
    delimiter = dialect.delimiter or "\t"
    between = "a TAB" if delimiter == "\t" else repr(delimiter)
    for number, raw in raw_lines(path, dialect.encoding):
        try:
            text = decode(raw).rstrip("\r\n")
            fields = text.split(delimiter) if len(ours) > 1 else [text]
            if len(fields) != len(ours):
                raise Fault(f"{len(fields)} fields, expected {len(ours)} separated by {between} ({', '.join(ours)})")
            yield number, fields
        except Fault as fault:
            yield number, fault


def read_documents(
    path: Path, document: Literal["line", "paragraph", "file"], encoding: str | None = None
) -> Iterator[Item]:
    """Texts of a plain text file: its non-blank lines, its paragraphs between blank lines, or the whole file unchanged.
    A fault has its own line."""
    lines = raw_lines(path, encoding)
    groups: Iterable[list[tuple[int, bytes]]]
    if document == "line":
        groups = ([line] for line in lines if line[1].strip())
    elif document == "paragraph":
        groups = (list(group) for says, group in groupby(lines, lambda line: bool(line[1].strip())) if says)
    else:
        groups = [list(lines)]
    for group in groups:
        texts = []
        for number, raw in group:
            try:
                texts.append(decode(raw))
            except Fault as fault:
                yield number, fault
                break
        else:
            text = "".join(texts)
            yield group[0][0] if group else 1, [text if document == "file" else text.rstrip("\r\n")]


def read_aligned(paths: list[Path], encoding: str | None = None) -> Iterator[Item]:
    readers = [raw_lines(path, encoding) for path in paths]
    for number, lines in enumerate(zip_longest(*readers), 1):
        if None in lines:
            counts = [number - (line is None) + sum(1 for _ in rest) for line, rest in zip(lines, readers, strict=True)]
            lines_of_files = ", ".join(f"{path} has {count} lines" for path, count in zip(paths, counts, strict=True))
            raise ValueError(f"aligned files must have the same number of lines, but {lines_of_files}")
        fields = []
        try:
            for path, (_, raw) in zip(paths, lines, strict=True):
                try:
                    fields.append(decode(raw).rstrip("\r\n"))
                except Fault as fault:
                    raise type(fault)(f"{path.name}: {fault}") from None
            yield number, fields
        except Fault as fault:
            yield number, fault


def read_csv(path: Path, columns: list[str], dialect: Dialect = USUAL, unread: Unread | None = None) -> Iterator[Item]:
    """RFC 4180; a first line `sep=;`, as spreadsheets write it, sets the delimiter."""
    return _read_separated(path, columns, dialect, unread, ",")


def read_tsv(path: Path, columns: list[str], dialect: Dialect = USUAL, unread: Unread | None = None) -> Iterator[Item]:
    """No quoting: TABs separate the fields."""
    return _read_separated(path, columns, dialect, unread, "\t", quoting=csv.QUOTE_NONE)


def read_xlsx(path: Path, columns: list[str], dialect: Dialect = USUAL, unread: Unread | None = None) -> Iterator[Item]:
    """The first sheet of an Excel workbook, as if it were saved as csv."""
    return _pick_columns(path, columns, read_cells(path), dialect, unread)


def _read_separated(
    path: Path, columns: list[str], dialect: Dialect, unread: Unread | None, delimiter: str, **quoting: Any
) -> Iterator[Item]:
    faults: dict[int, Fault] = {}
    delimiter = dialect.delimiter or delimiter
    lines = _lenient_lines(path, dialect.encoding, faults)
    first, before = next(lines, ""), 0  # lines before those that `records` counts
    if first.startswith("sep=") and len(named := first.strip("\r\n")) == 5:
        delimiter, before = named[4], 1
    else:
        lines = chain([first], lines)

    def records() -> Iterator[tuple[int, list[str] | Fault]]:
        reader = csv.reader(lines, strict=True, delimiter=delimiter, **quoting)
        while True:
            number = before + reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, Fault(f"not valid CSV: {error}")
                continue
            if fault := fault_between(faults, number, before + reader.line_num):
                yield number, fault
            elif fields:  # no blank line
                yield number, fields

    yield from _pick_columns(path, columns, records(), dialect, unread, delimiter)


def _pick_columns(
    path: Path,
    columns: list[str],
    records: Iterable[tuple[int, list[str] | Fault]],
    dialect: Dialect,
    unread: Unread | None,
    delimiter: str = "",
) -> Iterator[Item]:
    """The values of `columns` in each record; the first record names them, unless `dialect.column_names` does."""
    header: list[str] | None = None
    places: list[int | None] = []
    for number, fields in records:
        if isinstance(fields, Fault):
            if header is None:
                advice = "" if fields.advice == Fault.advice else f". {fields.advice}"
                raise ValueError(f"{path}, line {number}: {fields}{advice}")
            yield number, fields
            continue
        if header is None:
            has_names = not dialect.column_names
            header = fields if has_names else list(dialect.column_names)
            places = [_place(path, number, column, header, delimiter, has_names) for column in columns]
            if has_names:
                continue
            if sorted(fields) == sorted(header):
                raise ValueError(f"{path}, line {number} names the columns: do not set column_names")
        if len(fields) != len(header):
            by = "column_names has" if dialect.column_names else "the first line names"
            yield number, Fault(f"{len(fields)} fields, but {by} {len(header)}: {', '.join(header)}")
            continue
        row = dict(zip(header, fields, strict=True))
        if unread is not None:
            unread.count(row, columns, str(path))
        yield number, [row if place is None else fields[place] for place in places]


def _lenient_lines(path: Path, encoding: str | None, faults: dict[int, Fault]) -> Iterator[str]:
    """Lines of rows that may span several: a line that is not UTF-8 is noted in `faults`, and reading continues."""
    for number, raw in raw_lines(path, encoding):
        try:
            yield decode(raw)
        except Fault as fault:
            faults[number] = fault
            yield raw.decode(errors="replace")


def _place(path: Path, number: int, column: str, header: list[str], delimiter: str, named: bool) -> int | None:
    """The place of the column; None for "", the whole row. `named`: the first line names the columns."""
    if named and len(header) == 1 and header[0] != column:
        for other, name in DELIMITERS.items():
            if delimiter and other != delimiter and other in header[0]:
                raise ValueError(
                    f"{path}, line {number}: only one column, {header[0]!r:.80}, which contains {name}: set "
                    f"delimiter to {other!r}"
                )
    twice = [name for name in header if name and header.count(name) > 1]
    if column in twice or (column == "" and twice):
        raise ValueError(f"{path}, line {number}: column {column or twice[0]!r} occurs twice: rename one")
    if column == "":
        return None
    if column not in header:
        problem = missing(column, header)
        if not named:
            raise ValueError(f"{path}: {problem} (column_names)")
        way_out = "the first line must name the columns; if it is a row, name them with column_names"
        raise ValueError(f"{path}, line {number}: {problem} ({way_out})")
    return header.index(column)
