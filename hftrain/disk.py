"""Files that are complete or absent: they are written under another name, flushed to the disk, and then renamed.

Readers, also after a kill or a power cut, see the old content or the new, never a part.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAGED = r"\..+\.[0-9a-f]+\.tmp"  # names of files that a kill leaves behind


def write(path: Path, text: str) -> None:
    """Writes `text` to `path`. Half a surrogate pair, which can come out of a data file, is spelt out.

    Raises:
        OSError: it cannot be written; then `path` is unchanged.
    """
    with beside(path) as staged:
        staged.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        sync(staged)
        move(staged, path)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file under; what stands there at the end, since it was not moved, is deleted."""
    staged = path.with_name(f".{path.name.lstrip('.')}.{uuid.uuid4().hex}.tmp")
    try:
        yield staged
    finally:
        staged.unlink(missing_ok=True)


def move(path: Path, target: Path) -> None:
    """Gives a file or a folder, which is on the disk, the name `target`; a file of that name is replaced."""
    os.replace(path, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(folder: Path) -> None:
    """Flushes the content of a folder to the disk."""
    for path in [*folder.rglob("*"), folder]:  # folders too: they contain the names
        sync(path)
