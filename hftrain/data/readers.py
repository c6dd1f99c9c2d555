"""Readers of text files: each yields the line of a row (from 1) and the row's values, or why it is no row."""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, Literal

BATCH_ROWS = 10_000


class Fault(Exception):
    """Why one row is bad; the reader goes on with the next."""


Item = tuple[int, "list[Any] | Fault"]


def did_you_mean(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def missing(column: str, present: Iterable[str]) -> str:
    present = list(present)
    return f"no column {column!r}; there are {', '.join(map(repr, present))}" + did_you_mean(column, present)


# ---- values


def text(value: Any, name: str) -> str:
    """The value when it is text that says something; `name` is what to call it. Raises: Fault."""
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
    """JSON can spell half a surrogate pair, which no UTF-8 text can hold."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Fault(f"{name} holds {value[error.start]!r}, half a surrogate pair, which is not text") from None


def decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        hint = "; this looks like UTF-16, convert the file" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        at = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
        raise Fault(f"invalid UTF-8: {at}{hint}") from None


def pick(record: Any, column: str) -> Any:
    """The value of a column in a JSON object: a dot reaches into nested objects, "" is the whole."""
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


def _dotted(record: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name


# ---- text files


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
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
    for number, raw in raw_lines(path):
        try:
            text = decode(raw)
        except Fault as fault:
            faults[number] = fault
            text = raw.decode(errors="replace")
        yield number, text


def _fault_between(faults: dict[int, Fault], first: int, last: int) -> Fault | None:
    return next((fault for number, fault in faults.items() if first <= number <= last), None) if faults else None


def read_fields(path: Path, ours: list[str]) -> Iterator[Item]:
    for number, raw in raw_lines(path):
        try:
            text = decode(raw).rstrip("\r\n")
            fields = text.split("\t") if len(ours) > 1 else [text]
            if len(fields) != len(ours):
                raise Fault(f"{len(fields)} fields, expected {len(ours)} separated by a TAB ({', '.join(ours)})")
            yield number, fields
        except Fault as fault:
            yield number, fault


def read_documents(path: Path, document: Literal["line", "paragraph", "file"]) -> Iterator[Item]:
    """Texts of a plain text file: its lines but those that are blank, what stands between blank lines, or all of it as
    it is. A fault is named by its own line."""
    lines = raw_lines(path)
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


def read_aligned(paths: list[Path]) -> Iterator[Item]:
    readers = [raw_lines(path) for path in paths]
    for number, lines in enumerate(zip_longest(*readers), 1):
        if None in lines:
            counts = [number - (line is None) + sum(1 for _ in rest) for line, rest in zip(lines, readers, strict=True)]
            said = ", ".join(f"{path} has {count} lines" for path, count in zip(paths, counts, strict=True))
            raise ValueError(f"aligned files must have the same number of lines, but {said}")
        fields = []
        try:
            for path, (_, raw) in zip(paths, lines, strict=True):
                try:
                    fields.append(decode(raw).rstrip("\r\n"))
                except Fault as fault:
                    raise Fault(f"{path.name}: {fault}") from None
            yield number, fields
        except Fault as fault:
            yield number, fault


def read_jsonl(path: Path, columns: list[str]) -> Iterator[Item]:
    for number, raw in raw_lines(path):
        if raw.isspace():
            continue
        try:
            record = json.loads(decode(raw))
            yield number, [pick(record, column) for column in columns]
        except (ValueError, RecursionError) as error:
            yield number, Fault(f"not valid JSON: {error}")
        except Fault as fault:
            yield number, fault


def read_json(path: Path, columns: list[str]) -> Iterator[Item]:
    """An array of objects, parsed object by object as its lines come; a file that starts otherwise is JSON lines.

    A JSON string holds no line end, so an error anywhere but at the end of what was read is an error for good.
    """
    first = next((raw.lstrip() for _, raw in raw_lines(path) if not raw.isspace()), b"")
    if not first.startswith(b"["):
        yield from read_jsonl(path, columns)
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
                    yield start, _fault_between(faults, start, number) or [pick(record, column) for column in columns]
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


def read_separated(path: Path, columns: list[str], **dialect: Any) -> Iterator[Item]:
    faults: dict[int, Fault] = {}
    records = csv.reader((text for _, text in _lenient_lines(path, faults)), strict=True, **dialect)
    header: list[str] | None = None
    places: list[int | None] = []
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
            yield number, [dict(zip(header, fields, strict=True)) if i is None else fields[i] for i in places]
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


def _place(path: Path, number: int, column: str, header: list[str]) -> int | None:
    """Where the column stands; None of "", the whole row."""
    if column == "":
        return None
    if header.count(column) != 1:
        said = f"column {column!r} stands there twice" if column in header else missing(column, header)
        raise ValueError(f"{path}, line {number}: {said} (the first line must name the columns)")
    return header.index(column)


def read_csv(path: Path, columns: list[str]) -> Iterator[Item]:
    return read_separated(path, columns)


def read_tsv(path: Path, columns: list[str]) -> Iterator[Item]:
    return read_separated(path, columns, delimiter="\t", quoting=csv.QUOTE_NONE)
