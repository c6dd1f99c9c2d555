"""Contents and sizes of image files: read once, by several threads, and kept in the cache by name, size and time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hftrain.data.lines import Fault
from hftrain.data.media import examine_once
from hftrain.vision.decoding import Known, examine


def examine_files(paths: Sequence[str]) -> list[Known | Fault]:
    """`examine` of each file, or why it is no picture. Files that are as they were are not read again."""
    return examine_once(paths, paths, lambda path: examine(Path(path)), Known, "images")
