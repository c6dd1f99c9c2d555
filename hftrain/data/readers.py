"""Readers: each yields the place of a row (its line or row number, from 1) and its values, or why it is no row."""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

BATCH_ROWS = 10_000


class Fault(Exception):
    """Why one row is bad; the reader goes on with the next."""


Item = tuple[int, "list[Any] | Fault"]


class Reader(NamedTuple):
    """An opened source: what a place in it is called ("line", "row") and what each value of a row is called."""

    unit: str
    names: list[str]
    items: Iterator[Item]


def open_source(
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
        paths = [_existing(Path(source.replace("{lang}", language))) for language in languages]
        return Reader("line", [path.name for path in paths], _read_aligned(paths))
    if path.is_dir():
        return Reader("row", named, _read_tables(source, _saved_tables(path, split), wanted))
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    known = ending in COLUMNAR or ending in TEXTUAL or ending == ".txt"
    if not known and not path.exists() and re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source):
        return Reader("row", named, _read_tables(source, _hub_tables(source, config_name, split), wanted))
    path = _existing(path)
    if ending in COLUMNAR:
        return Reader("row", named, _read_tables(source, COLUMNAR[ending](path), wanted))
    if ending in TEXTUAL:
        return Reader("line", named, TEXTUAL[ending](path, wanted))
    names = [f"field {number} ({name})" for number, name in enumerate(columns, 1)]
    return Reader("line", names, _read_fields(path, list(columns)))


def _existing(path: Path) -> Path:
    if path.is_file():
        return path
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ValueError(f"no file {path}" + _did_you_mean(path.name, beside))


def _did_you_mean(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def missing(column: str, present: Iterable[str]) -> str:
    present = list(present)
    return f"no column {column!r}; there are {', '.join(map(repr, present))}" + _did_you_mean(column, present)


# ---- values


def texts(values: list[Any] | Fault, names: list[str]) -> list[str]:
    """The values when each of them is text that says something. Raises: Fault."""
    if isinstance(values, Fault):
        raise values
    for value, name in zip(values, names, strict=True):
        if value is None:
            raise Fault(f"{name} is null")
        if not isinstance(value, str):
            raise Fault(f"{name} is not text but {type(value).__name__}: {value!r:.60}")
        if not value or value.isspace():
            raise Fault(f"{name} is empty")
        if not value.isascii():
            _check_surrogates(value, name)
    return values


def _check_surrogates(value: str, name: str) -> None:
    """JSON can spell half a surrogate pair, which no UTF-8 text can hold."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Fault(f"{name} holds {value[error.start]!r}, half a surrogate pair, which is not text") from None


def _decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        hint = "; this looks like UTF-16, convert the file" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        at = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
        raise Fault(f"invalid UTF-8: {at}{hint}") from None


def _pick(record: Any, column: str) -> Any:
    """The value of a column in a JSON object; a dot reaches into nested objects."""
    if not isinstance(record, dict):
        raise Fault(f"not an object with columns but {type(record).__name__}: {record!r:.60}")
    if column in record:
        return record[column]
    value: Any = record
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            raise Fault(missing(column, _dotted(record)))
        value = value[part]
    return value


def _dotted(record: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name


# ---- text files


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their ends, split at LF only (U+2028 and form feeds are text), without a byte order mark."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                yield number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}, after line {number}: the gzip file is damaged or cut short ({error})") from None


def _lenient_lines(path: Path, faults: dict[int, Fault]) -> Iterator[tuple[int, str]]:
    """Lines where a row may span several: one that is not UTF-8 is noted in `faults`, and the text goes on."""
    for number, raw in _raw_lines(path):
        try:
            text = _decode(raw)
        except Fault as fault:
            faults[number] = fault
            text = raw.decode(errors="replace")
        yield number, text


def _fault_between(faults: dict[int, Fault], first: int, last: int) -> Fault | None:
    return next((fault for number, fault in faults.items() if first <= number <= last), None) if faults else None


def _read_fields(path: Path, ours: list[str]) -> Iterator[Item]:
    for number, raw in _raw_lines(path):
        try:
            text = _decode(raw).rstrip("\r\n")
            fields = text.split("\t") if len(ours) > 1 else [text]
            if len(fields) != len(ours):
                raise Fault(f"{len(fields)} fields, expected {len(ours)} separated by a TAB ({', '.join(ours)})")
            yield number, fields
        except Fault as fault:
            yield number, fault


def _read_aligned(paths: list[Path]) -> Iterator[Item]:
    readers = [_raw_lines(path) for path in paths]
    for number, lines in enumerate(zip_longest(*readers), 1):
        if None in lines:
            counts = [number - (line is None) + sum(1 for _ in rest) for line, rest in zip(lines, readers, strict=True)]
            said = ", ".join(f"{path} has {count} lines" for path, count in zip(paths, counts, strict=True))
            raise ValueError(f"aligned files must have the same number of lines, but {said}")
        fields = []
        try:
            for path, (_, raw) in zip(paths, lines, strict=True):
                try:
                    fields.append(_decode(raw).rstrip("\r\n"))
                except Fault as fault:
                    raise Fault(f"{path.name}: {fault}") from None
            yield number, fields
        except Fault as fault:
            yield number, fault


def _read_jsonl(path: Path, columns: list[str]) -> Iterator[Item]:
    for number, raw in _raw_lines(path):
        if raw.isspace():
            continue
        try:
            record = json.loads(_decode(raw))
            yield number, [_pick(record, column) for column in columns]
        except (ValueError, RecursionError) as error:
            yield number, Fault(f"not valid JSON: {error}")
        except Fault as fault:
            yield number, fault


def _read_json(path: Path, columns: list[str]) -> Iterator[Item]:
    """An array of objects, parsed object by object as its lines come; a file that starts otherwise is JSON lines.

    A JSON string holds no line end, so an error anywhere but at the end of what was read is an error for good.
    """
    first = next((raw.lstrip() for _, raw in _raw_lines(path) if not raw.isspace()), b"")
    if not first.startswith(b"["):
        yield from _read_jsonl(path, columns)
        return
    parse = json.JSONDecoder().raw_decode
    faults: dict[int, Fault] = {}
    text, start = "", 1  # the part not yet parsed, and the line on which it starts
    expected = "["  # the characters that may come now; inside the array ("]") a row may come too
    for number, line in _lenient_lines(path, faults):
        text += line
        position = 0
        while True:
            while position < len(text) and text[position] in " \t\r\n":
                start += text[position] == "\n"
                position += 1
            if position == len(text):
                break
            character = text[position]
            if expected == "]" and character != "]":  # a row
                try:
                    record, end = parse(text, position)
                except json.JSONDecodeError as error:
                    if not text[error.pos :].strip() or error.msg.startswith("Unterminated string"):
                        break  # the row goes on in the next line, if there is one
                    said = f"not valid JSON, so no row after it can be read: {error.msg}"
                    raise ValueError(f"{path}, line {start}: {said}") from None
                try:
                    yield start, _fault_between(faults, start, number) or [_pick(record, column) for column in columns]
                except Fault as fault:
                    yield start, fault
                start += text.count("\n", position, end)
                position, expected = end, ",]"
            elif character in expected:
                position, expected = position + 1, "" if character == "]" else "]"
            else:
                said = f"{character!r} where {' or '.join(expected) or 'the end of the file'} should be"
                raise ValueError(f"{path}, line {start}: not valid JSON: {said}")
        text = text[position:]
    if expected:
        yield start, Fault(f"truncated JSON: the file ends inside the array, after {text[:60]!r}")


def _read_separated(path: Path, columns: list[str], **dialect: Any) -> Iterator[Item]:
    faults: dict[int, Fault] = {}
    records = csv.reader((text for _, text in _lenient_lines(path, faults)), strict=True, **dialect)
    header: list[str] | None = None
    places: list[int] = []
    while True:
        number = records.line_num + 1
        try:
            fields = next(records)
            if fault := _fault_between(faults, number, records.line_num):
                raise fault
            if not fields:
                continue  # a blank line
            if header is None:
                header = fields
                places = [_place(path, number, column, header) for column in columns]
                continue
            if len(fields) != len(header):
                raise Fault(f"{len(fields)} fields, but the first line names {len(header)}: {', '.join(header)}")
            yield number, [fields[place] for place in places]
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise ValueError(f"{path}, line {number}: not valid CSV: {error}") from None
            yield number, Fault(f"not valid CSV: {error}")
        except Fault as fault:
            if header is None:
                raise ValueError(f"{path}, line {number}: {fault}") from None
            yield number, fault


def _place(path: Path, number: int, column: str, header: list[str]) -> int:
    if header.count(column) != 1:
        said = f"column {column!r} stands there twice" if column in header else missing(column, header)
        raise ValueError(f"{path}, line {number}: {said} (the first line must name the columns)")
    return header.index(column)


def _read_csv(path: Path, columns: list[str]) -> Iterator[Item]:
    return _read_separated(path, columns)


def _read_tsv(path: Path, columns: list[str]) -> Iterator[Item]:
    return _read_separated(path, columns, delimiter="\t", quoting=csv.QUOTE_NONE)


# ---- columnar files, folders and the Hub: everything that comes as Arrow tables

_Tables = Iterator["pa.Table | pa.RecordBatch"]


def _parquet_tables(path: Path) -> _Tables:
    import pyarrow.parquet

    yield from pyarrow.parquet.ParquetFile(path).iter_batches(BATCH_ROWS)


def _arrow_tables(path: Path) -> _Tables:
    with pa.memory_map(str(path)) as file:
        try:
            reader = pa.ipc.open_file(file)
        except pa.ArrowInvalid:
            file.seek(0)
            yield from pa.ipc.open_stream(file)
        else:
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))


def _saved_tables(path: Path, split: str | None) -> _Tables:
    from datasets import load_from_disk

    try:
        saved = load_from_disk(str(path))
    except FileNotFoundError:
        raise ValueError(f"{path} is a folder but was not written by save_to_disk; name a file in it") from None
    return _tables_of_split(str(path), saved, split)


def _hub_tables(name: str, config_name: str | None, split: str | None) -> _Tables:
    from datasets import load_dataset

    try:
        loaded = load_dataset(name, config_name)
    except Exception as error:  # the Hub client, the network and the data set's own files all raise what they like
        raise ValueError(
            f"{name!r} is no file and no folder here, and could not be loaded from the Hub: "
            f"{type(error).__name__}: {error}"
        ) from error
    return _tables_of_split(name, loaded, split)


def _tables_of_split(name: str, loaded: Any, split: str | None) -> _Tables:
    from datasets import Dataset

    if not isinstance(loaded, Dataset):
        if split is None and len(loaded) == 1:
            split = next(iter(loaded))
        if split not in loaded:
            raise ValueError(f"{name} has the splits {', '.join(map(repr, loaded))}; {split!r} is none of them")
        loaded = loaded[split]
    return loaded.with_format("arrow").iter(BATCH_ROWS)


def _read_tables(source: str, tables: _Tables, columns: list[str]) -> Iterator[Item]:
    number = 0
    try:
        for table in tables:
            for values in zip(*(_values(source, table, column) for column in columns), strict=True):
                number += 1
                fault = next((value for value in values if isinstance(value, Fault)), None)
                yield number, fault or list(values)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{source}, after row {number}: not a readable Arrow or Parquet file: {error}") from None


def _values(source: str, table: pa.Table | pa.RecordBatch, column: str) -> list[Any]:
    head, *rest = [column] if column in table.schema.names else column.split(".")
    try:
        array = table.column(head)
        for part in rest:
            array = pc.struct_field(array, part)
    except (KeyError, pa.ArrowException):
        raise ValueError(f"{source}: {missing(column, _flat_names(table.schema))}") from None
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        # Arrow files may hold bytes that are not UTF-8; as binary they come out one by one and can be blamed.
        return [_text_or_fault(raw, column) for raw in array.cast(pa.large_binary()).to_pylist()]
    return array.to_pylist()


def _text_or_fault(raw: bytes | None, column: str) -> str | Fault | None:
    try:
        return None if raw is None else _decode(raw)
    except Fault as fault:
        return Fault(f"column {column!r}: {fault}")


def _flat_names(fields: Iterable[pa.Field], prefix: str = "") -> Iterator[str]:
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _flat_names(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


COLUMNAR: dict[str, Callable[[Path], _Tables]] = {".parquet": _parquet_tables, ".arrow": _arrow_tables}
TEXTUAL: dict[str, Callable[[Path, list[str]], Iterator[Item]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
