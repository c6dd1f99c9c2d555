"""Files and folders: where what can be made again is kept, written whole, and told apart by its content."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache() -> Path:
    """Where what can be made again is kept; HF_HOME and HF_DATASETS_CACHE move it."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "hftrain"


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, which becomes `folder` at the end: it is whole or not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = folder.parent / f"{folder.name}.{uuid.uuid4().hex[:8]}"
    stage.mkdir()
    try:
        yield stage
        share_weights(stage)
        os.rename(stage, folder)
    except OSError:
        if not folder.exists():  # else another process was faster with the same
            raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def make_again(folder: Path) -> None:
    """Makes an output folder that somebody deleted or renamed while a run goes on, with a warning."""
    if not folder.exists():
        warnings.warn(f"{folder} was deleted or renamed while the run goes on: it is made again", stacklevel=3)
        folder.mkdir(parents=True, exist_ok=True)


def share_weights(folder: Path) -> None:
    """Makes weights as readable as the configuration beside them: safetensors leaves them to their owner alone."""
    for file in folder.rglob("*.safetensors"):
        for beside in file.parent.glob("*config.json"):
            shutil.copymode(beside, file)


def sha256_of(path: Path) -> str:
    """sha256 (hex) of the file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
