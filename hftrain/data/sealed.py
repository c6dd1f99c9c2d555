"""A finished model: written beside its place, sealed with a manifest, moved in file by file, verified later.

`model_manifest.json` lists the size and sha256 of each file that `save_pretrained` wrote. Other files in the folder, a
README for instance, are not checked: they may be added, edited and deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hftrain import __version__, disk
from hftrain.data.files import sha256_of

MANIFEST = "model_manifest.json"
STAGING = ".saving-model"  # in the folder that the model is moved to
WEIGHTS = (".safetensors", ".bin", ".gguf")


@contextmanager
def moved_in(folder: Path, **about: Any) -> Iterator[Path]:
    """A folder to save a model into; at the end its files are sealed and moved to `folder`, the manifest last.

    If the process is killed, the staging folder stays; it tells `problems` that the model is not finished.
    """
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    yield staging
    disk.sync_folder(staging)
    seal(staging, **about)
    before: set[str] = set()
    with suppress(ValueError):
        before = set(read_manifest(folder)["files"])
    (folder / MANIFEST).unlink(missing_ok=True)
    moved = [path for path in sorted(staging.rglob("*")) if path.is_file() and path.name != MANIFEST]
    for path in [*moved, staging / MANIFEST]:
        target = folder / path.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    for name in before - {path.relative_to(staging).as_posix() for path in moved}:
        (folder / name).unlink(missing_ok=True)  # shards of an earlier save that are no longer used
    disk.sync(folder)
    shutil.rmtree(staging)


def seal(folder: str | Path, names: Iterable[str] | None = None, **about: Any) -> None:
    """Writes the manifest of a model's `folder`, or adds the files `names`, written later, to it.

    Without a manifest, `names` are ignored: the folder was written by a version without manifests.
    """
    folder = Path(folder)
    if names is None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest: dict[str, Any] = {"format": 1, "written_by": f"hftrain {__version__}", **about, "files": {}}
    elif (folder / MANIFEST).is_file():
        files, manifest = [folder / name for name in names], read_manifest(folder)
    else:
        return
    sealed = [path for path in files if path.name not in (MANIFEST, "README.md")]  # peft writes a README
    with ThreadPoolExecutor() as pool:
        for path, digest in zip(sealed, pool.map(sha256_of, sealed), strict=True):
            entry = {"size": path.stat().st_size, "sha256": digest}
            manifest["files"][path.relative_to(folder).as_posix()] = entry
    manifest["sha256"] = _digest(manifest)
    disk.write(folder / MANIFEST, json.dumps(manifest, indent=1))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder. Raises: ValueError, it is unreadable or was changed."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        digest = manifest.pop("sha256")
        manifest["files"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{MANIFEST}: unreadable ({error})") from None
    if digest != _digest(manifest):
        raise ValueError(f"{MANIFEST}: its content has changed since it was written (sha256)")
    return manifest


def is_sealed(folder: str | Path) -> bool:
    """Whether `folder` holds a model with a manifest, even an unfinished one."""
    return (Path(folder) / MANIFEST).is_file() or (Path(folder) / STAGING).is_dir()


def problems(folder: str | Path) -> list[str]:
    """The problems of the sealed model in `folder`, one line each; [] if every byte is unchanged."""
    folder = Path(folder)
    if (folder / STAGING).is_dir():
        return [f"its save was not finished ({STAGING}): resume the run to save it again"]
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return [str(error)]
    with ThreadPoolExecutor() as pool:
        damages = pool.map(lambda item: damage_of(folder / item[0], **item[1]), manifest["files"].items())
        lines = []
        for name, problem in zip(manifest["files"], damages, strict=True):
            if problem and not name.endswith(WEIGHTS) and (folder / name).is_file():
                problem += "; unless you edited it, it is damaged"
            lines += [f"{name}: {problem}"] if problem else []
        return lines


def damage_of(path: Path, size: int, sha256: str) -> str | None:
    """The difference of `path` to the file of this size and sha256; None if it is the same."""
    try:
        if path.stat().st_size != size:
            return f"{path.stat().st_size} bytes instead of {size}"
        return None if sha256_of(path) == sha256 else "its content has changed since it was written (sha256)"
    except FileNotFoundError:
        return "missing"
    except OSError as error:  # the disk cannot read it back
        return str(error)


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
