"""Where recordings are: files in folders by class, paths beside a table, bytes in a columnar file or on the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.audio.decoding import Known, examine
from hftrain.data import media
from hftrain.data.lines import Fault
from hftrain.data.media import examine_once
from hftrain.data.sources import Reader

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".m4a", ".aac")
# sha256 of the file (with the span), its path, the span (null: the whole), and what the file has
AUDIO = pa.schema(
    [
        ("content", pa.string()),
        ("audio", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("seconds", pa.float64()),
        ("rate", pa.int32()),
        ("channels", pa.int32()),
    ]
)


def read_audio_file(path: Path) -> Reader | None:
    """An audio file as one row, [path, name of its folder]; None of other files."""
    return media.read_one(path, ENDINGS, "recording")


def locate(value: Any, name: str) -> str:
    """The path of a recording: named as such, or its bytes, which are put into the cache; `name` is what to call it.

    Raises:
        Fault: neither, or the recording is on the network.
    """
    return media.locate(value, name, "audio", "a recording")


def read_span(values: Sequence[Any], names: Sequence[str]) -> list[float | None]:
    """[start, end] in seconds of no values, or of two. Raises: Fault."""
    return [_seconds(value, name) for value, name in zip(values, names, strict=True)] if values else [None, None]


def _seconds(value: Any, name: str) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise Fault(f"{name} is {value!r:.60}, not a number of seconds") from None
    if not 0 <= seconds < float("inf"):
        raise Fault(f"{name} is {seconds}, not a number of seconds")
    return seconds


def examine_files(items: Sequence[Sequence[Any]]) -> list[Known | Fault]:
    """`examine` of each (path, start, end), or why it is no recording. Files that are unchanged are not read again."""
    spans = [list(item) for item in items]
    return examine_once(
        spans, [item[0] for item in spans], lambda item: examine(Path(item[0]), *item[1:]), Known, "audio"
    )


def audio_files(names: Sequence[str]) -> list[str]:
    """The recordings that are named, or are in a folder that is. Raises: ValueError, a folder without recordings."""
    return media.named_files(names, ENDINGS, "recording")


def located(recordings: Sequence[Any]) -> list[tuple[str, Known]]:
    """The path of each recording, named or as its bytes, and what its file contains.

    Raises:
        ValueError: a recording that cannot be read, or is on the network.
    """
    return media.located(recordings, "recording", locate, lambda path: examine(Path(path)))


class Contents:
    """What recordings contain: `look` gives each row what `AUDIO` has, and refuses a recording that it has seen with
    another label. `what`: what the last value of a row is."""

    def __init__(self, what: str = "label") -> None:
        self.seen = media.Seen(what, "recording")

    def look(self, rows: Sequence[Sequence[Any]]) -> list[list[Any] | Fault]:
        """Rows (path, start, end, ..., label) -> the values of `AUDIO`, ..., label, or a Fault."""
        looked = zip(rows, examine_files([row[:3] for row in rows]), strict=True)
        return [
            Fault(f"{row[0]}: {known}") if isinstance(known, Fault) else self._labelled(row, known)
            for row, known in looked
        ]

    def _labelled(self, row: Sequence[Any], known: Known) -> list[Any] | Fault:
        path, start, end, *rest = row
        fault = self.seen.contradiction(known.content, rest[-1], path)
        return fault or [known.content, path, start, end, known.seconds, known.rate, known.channels, *rest]


def name_leaks(rows: Mapping[str, Rows]) -> None:
    """Logs a recording of each held-out split that leaks, with its path in the training rows."""
    media.name_leaks(rows, "audio")
