"""Contents and sizes of image files: read once, by several threads, and kept in the cache by name, size and time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hftrain import disk
from hftrain.data.files import cache, make_once
from hftrain.data.lines import Fault
from hftrain.vision.decoding import Known, examine

logger = logging.getLogger(__name__)

MANY = 2_000  # files from which on the wait is explained


class Facts(NamedTuple):
    """How files are examined, what comes of it, and where that is cached."""

    examine: Callable[[Path], Any]
    kind: Callable[..., Any]
    folder: str


IMAGES = Facts(examine, Known, "index")


def examine_files(paths: Sequence[str], facts: Facts = IMAGES) -> list[Any]:
    """`facts.examine` of each file, or the Fault that it raised. Files that are as they were are not read again."""
    stamps = [_stamp(path) for path in paths]
    key = hashlib.sha256(json.dumps([paths, stamps]).encode()).hexdigest()
    folder = cache() / "images" / facts.folder / key[:32]

    def make(stage: Path) -> None:
        if len(paths) >= MANY:
            logger.warning(
                "%s images are read once, to know their contents and to find damaged ones", f"{len(paths):,}"
            )
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock
            entries = pool.map(partial(_examined, facts), paths)
            lines = "".join(f"{json.dumps(None if isinstance(entry, Fault) else entry)}\n" for entry in entries)
        (stage / "index.jsonl").write_text(lines, encoding="utf-8")

    make_once(folder, make)
    with (folder / "index.jsonl").open(encoding="utf-8") as file:
        entries = list(map(json.loads, file))
    return [facts.kind(*entry) if entry else _examined(facts, path) for path, entry in zip(paths, entries, strict=True)]


def keep(content: bytes) -> str:
    """Puts the bytes of an image into the cache, under the hash of what they say; returns the path."""
    digest = hashlib.sha256(content).hexdigest()
    path = cache() / "images" / "kept" / digest[:2] / digest
    if not path.exists() or path.stat().st_size != len(content):
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk.beside(path) as staged:
            staged.write_bytes(content)
            staged.replace(path)
    return str(path)


def _stamp(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _examined(facts: Facts, path: str) -> Any:
    try:
        return facts.examine(Path(path))
    except Fault as fault:
        return fault
