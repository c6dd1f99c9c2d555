"""Lines of text files as UTF-8 bytes: decompressed, without a byte order mark, of limited length.

The first bytes decide the kind of a file; its name decides only how its text is read.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

MAX_LINE = 1 << 28  # bytes
PIECE = 1 << 20  # bytes
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zstd")
MODULES = {  # first bytes of a compressed file -> the module that opens it; zstd comes with pyarrow
    rb"\x1f\x8b": "gzip",
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": "bz2",
    rb"\xfd7zXZ\x00": "lzma",
    rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18": "zstd",
}
MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
BINARY = {  # first bytes of a file that is not text -> its kind, and the way out
    rb"PK\x03\x04": "a zip archive or an Office file: unpack it, or save its sheet as .csv",
    rb"\xd0\xcf\x11\xe0": "an Office file: save its sheet as .csv",
    rb"%PDF-": "a PDF: extract its text to a .txt file",
    rb"7z\xbc\xaf|Rar!|(?s:.{257})ustar": "an archive: unpack it",
    rb"PAR1[\x00-\x1f]": "a Parquet file: rename it to .parquet",
    rb"ARROW1\x00": "an Arrow file: rename it to .arrow",
    rb"SQLite format 3": "a SQLite database: export its table as .csv",
    rb"(?s:.{0,4000})\x00": "binary, not text (or UTF-16 without a byte order mark: set encoding utf-16-le)",
}


class Dialect(NamedTuple):
    """How a text file is written, if it differs from the default of its ending."""

    delimiter: str | None = None  # between the fields; None: a comma in csv, TAB in tsv and txt
    encoding: str | None = None  # None: UTF-8, or the encoding of a byte order mark
    column_names: tuple[str, ...] = ()  # for csv and tsv files whose first line is a row


USUAL = Dialect()


class Fault(Exception):
    """The reason why one row is bad; the reader continues with the next."""

    advice = "Correct them, or raise max_bad_rows to leave that many out."


class NotUTF8(Fault):
    """The row is not UTF-8: the whole file may be written in another encoding."""

    advice = "Set encoding to that of the file (windows-1252, say), or save it as UTF-8."


def decode(raw: bytes) -> str:
    """Decodes UTF-8. Raises: NotUTF8, with the byte."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        at = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
        raise NotUTF8(f"invalid UTF-8: {at}") from None


def raw_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers and ends, split at LF only (U+2028 and form feeds are text).

    Raises:
        ValueError: the file cannot be read, or a line has more than MAX_LINE bytes.
    """
    for number, raw in _pieces(path, MAX_LINE + 1, encoding):
        if len(raw) > MAX_LINE:
            raise ValueError(
                f"{path}, line {number}: more than {MAX_LINE >> 20} MiB without a line break, which is too long for a "
                "row. If it contains several rows, put line breaks between them; otherwise the file is damaged"
            )
        if number == 1 and b"\r" in raw.rstrip(b"\r") and not raw.endswith(b"\n"):
            raise ValueError(f"{path}: its lines end with CR only: replace CR by LF (tr '\\r' '\\n')")
        yield number, raw


def text_pieces(path: Path, encoding: str | None, faults: dict[int, Fault]) -> Iterator[tuple[int, str]]:
    """Text in order with the number of its line: whole lines, or parts of those that are longer than PIECE bytes.

    Lines that are not UTF-8 are noted in `faults` by their number, and their text is repaired.
    """
    remainder = b""  # the first bytes of a character that continues in the next piece
    for number, raw in _pieces(path, PIECE, encoding):
        raw = remainder + raw
        remainder = b"" if raw.endswith(b"\n") else _split_character(raw)
        raw = raw[: len(raw) - len(remainder)]
        try:
            yield number, decode(raw)
        except Fault as fault:
            faults.setdefault(number, fault)
            yield number, raw.decode(errors="replace")
    if remainder:
        faults.setdefault(number, NotUTF8(f"invalid UTF-8: the file ends inside a character, {remainder!r}"))


def _split_character(raw: bytes) -> bytes:
    """The last bytes of `raw` that begin a character of UTF-8 without ending it."""
    for back in range(1, min(4, len(raw) + 1)):
        byte = raw[-back]
        if byte >= 0xC0:
            return raw[-back:] if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else b""
        if byte < 0x80:
            break
    return b""


def _pieces(path: Path, size: int, encoding: str | None) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, in pieces of at most `size` bytes (characters of another encoding)."""
    number, ended = 0, True
    try:
        with open_unpacked(path) as file:
            encoding = _check_head(path, file.peek(4096), encoding)  # type: ignore[attr-defined]
            text = io.TextIOWrapper(file, encoding, newline="\n") if encoding else None  # type: ignore[arg-type]
            while raw := text.readline(size).encode(errors="surrogatepass") if text else file.readline(size):
                if not number:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                number += ended
                ended = raw.endswith(b"\n")
                yield number, raw
    except UnicodeDecodeError as error:
        at = f"byte 0x{error.object[error.start]:02x}"
        raise ValueError(f"{path}, after line {number}: not {encoding}: {at} ({error.reason}): set encoding") from None
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise ValueError(_cannot_read(path, number, error)) from None
    except Exception as error:
        if type(error).__name__ != "LZMAError":  # its module may be missing
            raise
        raise ValueError(_cannot_read(path, number, error)) from None


def _cannot_read(path: Path, number: int, error: Exception) -> str:
    if getattr(error, "errno", None):
        return f"{path} cannot be read: {error.strerror}"  # type: ignore[attr-defined]
    return f"{path}, after line {number}: the compressed file is damaged or truncated ({error})"


def open_unpacked(path: Path) -> BinaryIO:
    """The file, decompressed if it is a gzip, bzip2, xz or zstd file.

    Raises:
        ValueError: it is not compressed as its name says, or this Python lacks the module.
    """
    with path.open("rb") as file:
        head = file.read(16)
    module = next((module for magic, module in MODULES.items() if re.match(magic, head)), None)
    if module == "zstd":
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    if module:
        try:
            opened: Any = import_module(module).open(path)
        except ImportError:
            raise ValueError(f"{path}: this Python lacks the module {module}: decompress the file") from None
        return io.BufferedReader(opened)  # type: ignore[return-value]
    if head and path.suffix.lower() in PACKED:
        raise ValueError(
            f"{path} is not a {path.suffix[1:]} file: it is damaged, or not compressed (then "
            f"drop {path.suffix} from its name)"
        )
    return path.open("rb")


def _check_head(path: Path, head: bytes, encoding: str | None) -> str | None:
    """The encoding; None: UTF-8. Raises: ValueError, the file is not text."""
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    if encoding or marked:
        return encoding or marked
    for magic, kind in BINARY.items():
        if re.match(magic, head):
            raise ValueError(f"{path} is {kind}")
    return None
