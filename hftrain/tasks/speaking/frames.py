"""What was made of recordings, frame by frame, in files of the cache.

Shapes: F frames of a recording, K values of a frame.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.data.files import cache, make_once

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


class Frames(Sequence[np.ndarray]):
    """(F, K) of each row, read when they are needed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.ends = np.load(folder / "ends.npy")

    @cached_property
    def _frames(self) -> np.ndarray:
        values: np.ndarray = np.load(self.folder / "frames.npy", mmap_mode="r")
        return values

    def __getstate__(self) -> dict[str, Any]:  # a pickle of a memory map would contain every frame
        return {"folder": self.folder, "ends": self.ends}

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        return np.array(self._frames[self.ends[index] : self.ends[index + 1]])


def stored(kind: str, maker: str, rows: "Rows", make: Callable[[Mapping[str, Any]], np.ndarray]) -> Path:
    """The folder of `Frames` with what `make` makes of each row, (F, K); made only once for each content.

    Args:
        kind: name of the folder.
        maker: identifies `make`.
    """
    key = hashlib.sha256((maker + json.dumps(rows["content"][:])).encode())
    folder = cache() / "audio" / kind / key.hexdigest()[:32]

    def write(stage: Path) -> None:
        frames = [make(row) for row in rows]
        np.save(stage / "frames.npy", np.concatenate(frames))
        np.save(stage / "ends.npy", np.cumsum([0, *map(len, frames)]))

    make_once(folder, write)
    return folder
