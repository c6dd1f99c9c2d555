"""Files that rows name, of images or audio: their places, what is known of each, read once and cached."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hftrain import disk
from hftrain.data.files import cache, make_once
from hftrain.data.lines import Fault
from hftrain.data.sources import Reader, ending, visible_files

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

MANY = 2_000  # files from which on the wait is explained
NAMED = 10  # files that an error names at most
REMOTE = re.compile(r"(https?|ftp|s3|gs|hf)://", re.I)
ENCODED = re.compile(r"data:|[A-Za-z0-9+/\s]{200,}={0,2}\s*$")  # a file as base64 text

Known = TypeVar("Known", bound=tuple[Any, ...])


def beside(file: Path, values: list[Any]) -> list[Any]:
    """The values of a row of `file`, whose first names a file relative to it."""
    return [_beside(file.parent, values[0]), *values[1:]]


def _beside(folder: Path, value: Any) -> Any:
    if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
        value = value["path"]  # as datasets.Image writes one that it did not embed
    if isinstance(value, str) and value and not (REMOTE.match(value) or ENCODED.match(value)):
        return str(folder / Path(value).expanduser())
    return value


def fingerprint(rows: Rows, *learnt: Any) -> str:
    """Identifies examples by the contents of their files, not by their places, and by what is `learnt` of them."""
    return hashlib.sha256("\n".join([*rows["content"], *map(repr, learnt)]).encode()).hexdigest()


def locate(value: Any, name: str, kind: str, one: str) -> str:
    """The path of a file: named as such, or its bytes, which are put into the cache; `name` is what to call it.

    Args:
        kind: the folder of the cache, "images"; `one`: what the file contains, "an image".

    Raises:
        Fault: neither, or the file is on the network.
    """
    if isinstance(value, dict):  # of datasets.Image and datasets.Audio
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
        value = value.encode() if isinstance(value, str) and not Path(value).is_file() else value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        if not value:
            raise Fault(f"{name} is empty")
        return keep(value, kind)
    if not isinstance(value, str) or not value.strip():
        raise Fault(f"{name} is {'null' if value is None else f'no path of {one}: {value!r:.60}'}")
    if ENCODED.match(value):
        raise Fault(
            f"{name} is base64 text, {value:.24}..., not the path of {one}: decode it into files and name these, or "
            "into a column of bytes (parquet)"
        )
    if REMOTE.match(value):
        raise Fault(
            f"{name} is a URL, {value:.80}: only files are read, since what a server sends may differ each time; "
            "download it first"
        )
    return value


def named_files(names: Sequence[str], endings: Sequence[str], one: str) -> list[str]:
    """The files that are named, or are in a folder that is.

    Raises:
        ValueError: a folder without such files.
    """
    files = []
    for name in names:
        if not Path(name).is_dir():
            files.append(name)
            continue
        inside = [str(path) for path in visible_files(Path(name)) if path.suffix.lower() in endings]
        if not inside:
            raise ValueError(f"no {one} in {name} (known endings: {', '.join(endings)})")
        files += inside
    return files


def located(
    items: Sequence[Any], one: str, locate: Callable[[Any, str], str], examine: Callable[[str], Known]
) -> list[tuple[str, Known]]:
    """The path of each file, named or as its bytes, and what it contains.

    Raises:
        ValueError: a file that cannot be read, or is on the network.
    """
    known, faults = [], []
    for number, item in enumerate(items, 1):
        name = item if isinstance(item, str) else f"{one} {number}"
        try:
            path = locate(item, name)
            known.append((path, examine(path)))
        except Fault as fault:
            faults.append(str(fault) if name in str(fault) else f"{name}: {fault}")
    if len(faults) == 1:
        raise ValueError(faults[0])
    if faults:
        first = faults[:NAMED]
        problem = f"{len(faults)} of {len(items)} {one}s cannot be read; the first {len(first)}"
        raise ValueError("\n  ".join([f"{problem}:", *first]) + "\nRepair them, or leave them out.")
    return known


def keep(content: bytes, kind: str) -> str:
    """Puts the bytes of a file into the cache, under their hash; returns the path."""
    digest = hashlib.sha256(content).hexdigest()
    path = cache() / kind / "kept" / digest[:2] / digest
    if not path.exists() or path.stat().st_size != len(content):
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk.beside(path) as staged:
            staged.write_bytes(content)
            staged.replace(path)
    return str(path)


def examine_once(
    items: Sequence[Any],
    paths: Sequence[str],
    examine: Callable[[Any], Known],
    known: Callable[..., Known],
    kind: str,
) -> list[Known | Fault]:
    """`examine` of each item, or its Fault: by several threads, and cached by the name, size and time of its file.

    Args:
        items: what `examine` gets, written as JSON into the key of the cache; `paths`: the file of each.
        known: what `examine` returns, made of its values.
        kind: the folder of the cache, and the word for the files: "images".
    """
    key = hashlib.sha256(json.dumps([items, [_stamp(path) for path in paths]]).encode()).hexdigest()
    folder = cache() / kind / "index" / key[:32]

    def examined(item: Any) -> Known | Fault:
        try:
            return examine(item)
        except Fault as fault:
            return fault

    def make(stage: Path) -> None:
        if len(items) >= MANY:
            logger.warning(
                "%s %s are read once, to know their contents and to find damaged ones", f"{len(items):,}", kind
            )
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock
            entries = pool.map(examined, items)
            lines = "".join(f"{json.dumps(None if isinstance(entry, Fault) else entry)}\n" for entry in entries)
        (stage / "index.jsonl").write_text(lines, encoding="utf-8")

    make_once(folder, make)
    with (folder / "index.jsonl").open(encoding="utf-8") as file:
        entries = list(map(json.loads, file))
    return [known(*entry) if entry else examined(item) for item, entry in zip(items, entries, strict=True)]


def _stamp(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def read_one(path: Path, endings: Sequence[str], one: str) -> Reader | None:
    """A file that is `one`, "image", as one row, [path, name of its folder]; None of files with other endings."""
    if ending(path) not in endings:
        return None
    rows = iter([(1, [path.name, path.absolute().parent.name])])
    return Reader(str(path), one, [f"the {one}", "its folder"], rows)


class Seen:
    """Contents with their labels: a content that occurs again must have the same label.

    Args:
        what: what the label is, "label"; `one`: what the content is, "image".
    """

    def __init__(self, what: str, one: str) -> None:
        self.what, self.one = what, one
        self.labels: dict[str, tuple[Any, str]] = {}  # content -> label and the path where it was first

    def contradiction(self, content: str, label: Any, path: str) -> Fault | None:
        first_label, first = self.labels.setdefault(content, (label, path))
        if _unordered(first_label) == _unordered(label):
            return None
        if self.what == "label":
            return Fault(f"the same {self.one} as {first}, which has the label {first_label!r}, not {label!r}")
        return Fault(f"{path} is the same {self.one} as {first}, but has other {self.what}")


def _unordered(label: Any) -> Any:
    """A list of names without their order, objects without the names of their annotations; anything else as it is."""
    if isinstance(label, list) and all(isinstance(name, str) for name in label):
        return frozenset(label)
    if isinstance(label, list) and all(isinstance(one, dict) for one in label):
        return [{key: value for key, value in one.items() if key != "what"} for one in label]
    return label


def name_leaks(rows: Mapping[str, Rows], column: str) -> None:
    """Logs a file of each held-out split that leaks, with its path in the training rows; `column` names the files."""
    for name, split in rows.items():
        if split.leaks and split.leaks.inputs:
            known = dict(zip(rows["train"]["content"], rows["train"][column], strict=True))
            row = next(row for row in split if row["content"] in known)
            logger.warning("leak: %s of %s is the %s %s of train", row[column], name, column, known[row["content"]])
