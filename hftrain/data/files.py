"""Files and folders: where what can be made again is kept, written whole, and told apart by its content."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hftrain import disk

logger = logging.getLogger(__name__)

SUMS = "sha256.json"
ADAPTER = "adapter_config.json"  # the file by which a folder holds an adapter


def cache() -> Path:
    """Where what can be made again is kept; HF_HOME and HF_DATASETS_CACHE move it."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "hftrain"


def require_model(folder: Path) -> None:
    """Raises: ValueError, `folder` contains neither a model nor an adapter."""
    if not any((folder / name).is_file() for name in ("config.json", ADAPTER)):
        raise ValueError(f"no model in {folder} (neither config.json nor {ADAPTER}): give the output folder of a run")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, which becomes `folder` at the end: it is whole or not there.

    Raises:
        ValueError: it cannot be written.
    """
    stage = folder.parent / f"{folder.name}.{uuid.uuid4().hex[:8]}"
    try:
        stage.mkdir(parents=True)
        yield stage
        share_weights(stage)
        disk.sync_folder(stage)
        disk.move(stage, folder)
    except OSError as error:
        if not folder.exists():  # else another process was faster with the same
            raise ValueError(cannot_write(folder, error)) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def cannot_write(path: Path, error: OSError) -> str:
    """What to say where `path` cannot be written, which may be in the cache."""
    reason = error.strerror or error
    if cache() not in path.parents:
        return f"{path} cannot be written: {reason}"
    return (
        f"the cache {cache()} cannot be written ({reason}): set HF_HOME or HF_DATASETS_CACHE to a folder that can be "
        "written and has room"
    )


def make_once(folder: Path, make: Callable[[Path], object]) -> None:
    """`make(stage)` writes the files of `folder`, if they are not there as they were written; damage is logged."""
    if folder.exists() and (damaged := _damaged(folder)):
        logger.warning("%s is damaged (%s) and will be made again", folder, damaged)
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        with staged(folder) as stage:
            make(stage)
            sums = {str(path.relative_to(stage)): sha256_of(path) for path in stage.rglob("*") if path.is_file()}
            (stage / SUMS).write_text(json.dumps(sums))


def _damaged(folder: Path) -> str | None:
    """The first file that is not as `make_once` wrote it; None: all are."""
    name = SUMS
    try:
        for name, digest in json.loads((folder / SUMS).read_text()).items():
            if sha256_of(folder / name) != digest:
                return name
    except (OSError, ValueError, AttributeError):
        return name
    return None


def make_again(folder: Path) -> None:
    """Makes an output folder that was deleted or renamed during a run, with a warning."""
    if not folder.exists():
        warnings.warn(f"{folder} was deleted or renamed during the run: it is created again", stacklevel=3)
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
