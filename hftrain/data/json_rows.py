"""Readers of JSON: lines, an array, one object with the rows under a key, or values one after another.

The content decides the format of a file, and no reader parses a row more than about twice.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hftrain.data.lines import USUAL, Dialect, Fault, decode, raw_lines, text_pieces
from hftrain.data.readers import Item, fault_between, parses, pick, top
from hftrain.data.unread import Unread

logger = logging.getLogger(__name__)

ENOUGH = 1 << 16  # characters to read before the next attempt to parse
LONGEST_TOKEN = 16  # characters of a token that a piece may cut in two (-Infinity, \ud83d), with a margin
SPACE = re.compile(r"[ \t\r\n]*")
TOO_DEEP = "nested too deep to be read"
PARTS = {"role", "from", "start", "answer_start", "function"}  # keys of parts of a row: turns, spans, tools


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values. Raises: Fault, a key occurs twice."""
    record = dict(pairs)
    if len(record) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise Fault(f"the key {key!r} occurs twice")
    return record


PLAIN, UNIQUE = json.JSONDecoder(), json.JSONDecoder(object_pairs_hook=_unique)


def _row(record: Any, columns: list[str], path: Path, unread: Unread | None = None) -> list[Any] | Fault:
    try:
        if isinstance(record, Fault):
            raise record
        values = [pick(record, column) for column in columns]
    except Fault as fault:
        return fault
    if unread is not None:
        unread.count(record, top(columns), str(path))
    return values


def read_jsonl(
    path: Path, columns: list[str], dialect: Dialect = USUAL, unread: Unread | None = None
) -> Iterator[Item]:
    for number, raw in raw_lines(path, dialect.encoding):
        if raw.isspace():
            continue
        try:
            yield number, _row(UNIQUE.decode(decode(raw)), columns, path, unread)
        except RecursionError:
            yield number, Fault(f"not valid JSON: {TOO_DEEP}")
        except ValueError as error:
            yield number, Fault(f"not valid JSON: {error}")
        except Fault as fault:
            yield number, fault


def read_json(path: Path, columns: list[str], dialect: Dialect = USUAL, unread: Unread | None = None) -> Iterator[Item]:
    """Rows of an array, of the only list of objects in an object, or values one after another, usually one per line."""
    faults, encoding = dict[int, Fault](), dialect.encoding
    start = next((text.lstrip() for _, text in text_pieces(path, encoding, faults) if not text.isspace()), "")
    if start.startswith("["):
        faults.clear()
        for number, record in _records(path, text_pieces(path, encoding, faults), faults, "["):
            yield number, _row(record, columns, path, unread)
    elif start.startswith("{") and not is_lines(path, encoding):
        yield from _read_objects(path, columns, encoding, unread)
    else:
        yield from read_jsonl(path, columns, dialect, unread)


def is_lines(path: Path, encoding: str | None) -> bool:
    """Whether a file has one value per line, even if the first is damaged, not one value over several lines or
    alone."""
    lines = (raw.strip() for _, raw in raw_lines(path, encoding) if not raw.isspace())
    first, second = next(lines, b""), next(lines, b"")
    return second.startswith(b"{") or parses(first) == bool(second)


def _read_objects(path: Path, columns: list[str], encoding: str | None, unread: Unread | None) -> Iterator[Item]:
    faults: dict[int, Fault] = {}
    records = _records(path, text_pieces(path, encoding, faults), faults, "", PLAIN)
    _, record = next(records)
    key = None if isinstance(record, Fault) or next(records, None) else _key_of_rows(path, record, columns)
    faults.clear()
    pieces = text_pieces(path, encoding, faults)
    if key is None:
        rows = _records(path, pieces, faults, "")
    else:
        logger.warning("%s: the rows are those under %r", path, key)
        text = "".join(piece for _, piece in pieces)
        begin, end = _place_of(text, key)
        rows = _records(path, iter([(0, text[begin:end])]), faults, "[", start=1 + text.count("\n", 0, begin))
    for number, row in rows:
        yield number, _row(row, columns, path, unread)


def _key_of_rows(path: Path, record: dict[str, Any], columns: list[str]) -> str | None:
    """The key under which a file's only object has the rows; None: the object is a row.

    Raises:
        ValueError: several keys have lists of objects.
    """
    lists = [key for key, value in record.items() if value and isinstance(value, list) and _are_objects(value)]
    is_row = columns != [""] and not isinstance(_row(record, columns, path), Fault)
    if is_row or not lists or any(PARTS & record[key][0].keys() for key in lists):
        return None
    if len(lists) > 1:
        raise ValueError(
            f"{path} is one object, with lists of objects under {', '.join(map(repr, lists))}: write the rows that you "
            "want to a separate file, as an array or one row per line"
        )
    return lists[0]


def _are_objects(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _place_of(text: str, key: str) -> tuple[int, int]:
    """Begin and end of the value of `key` in the text of a valid object."""
    position = text.index("{") + 1
    while True:
        name, position = PLAIN.raw_decode(text, _skip(text, position))
        begin = _skip(text, _skip(text, position) + 1)  # after the colon
        _, end = PLAIN.raw_decode(text, begin)
        if name == key:
            return begin, end
        position = _skip(text, end) + 1  # after the comma


def _skip(text: str, position: int) -> int:
    match = SPACE.match(text, position)
    assert match
    return match.end()


def _records(
    path: Path,
    pieces: Iterator[tuple[int, str]],
    faults: dict[int, Fault],
    expected: str,
    decoder: json.JSONDecoder = UNIQUE,
    start: int = 1,
) -> Iterator[tuple[int, Any]]:
    """Values, or Faults, of an array or of a sequence of values, each with the line on which it begins.

    An incomplete value is parsed again when twice as much text is there, so the time is linear.

    Args:
        faults: faults of the pieces, by line.
        expected: the characters that may come next besides a value: "[" begins an array, "" a sequence of values.
        start: line of the first character.
    """
    array = expected == "["
    text, position, ended = "", 0, False
    while not ended:
        size = len(text) - position
        wanted, parts = max(ENOUGH, 2 * size), [text[position:]]
        while size < wanted and not ended:
            _, piece = next(pieces, (0, ""))
            ended = not piece
            parts.append(piece)
            size += len(piece)
        text, position = "".join(parts), 0
        while True:
            after = _skip(text, position)
            start, position = start + text.count("\n", position, after), after
            if position == len(text):
                break
            character = text[position]
            if not array or (expected == "]" and character != "]"):
                try:
                    record, end = _decode(decoder, text, position)
                except json.JSONDecodeError as error:
                    unfinished = error.msg.startswith("Unterminated string") or not text[error.pos :].strip()
                    if unfinished or (not ended and error.pos > len(text) - LONGEST_TOKEN):
                        break  # the value continues if the file does
                    raise ValueError(_no_row_after(path, start, error.msg)) from None
                except (ValueError, RecursionError) as error:
                    reason = TOO_DEEP if isinstance(error, RecursionError) else str(error)
                    raise ValueError(_no_row_after(path, start, reason)) from None
                if end == len(text) and not ended and text[end - 1] not in '}]"':
                    break  # a number may have more digits
                last = start + text.count("\n", position, end)
                yield start, fault_between(faults, start, last) or record
                start, position = last, end
                expected = ",]" if array else ""
            elif character in expected:
                position, expected = position + 1, "" if character == "]" else "]"
            else:
                reason = f"{character!r} where {' or '.join(expected) or 'the end of the file'} should be"
                raise ValueError(f"{path}, line {start}: not valid JSON: {reason}")
    if expected or position < len(text):
        where = "the array" if array else "an object"
        yield start, Fault(f"truncated JSON: the file ends inside {where}, after {text[position : position + 60]!r}")


def _decode(decoder: json.JSONDecoder, text: str, position: int) -> tuple[Any, int]:
    """A value or its Fault, and where it ends."""
    try:
        return decoder.raw_decode(text, position)
    except Fault as fault:
        return fault, PLAIN.raw_decode(text, position)[1]


def _no_row_after(path: Path, line: int, reason: str) -> str:
    return f"{path}, line {line}: not valid JSON, so no row after it can be read: {reason}"
