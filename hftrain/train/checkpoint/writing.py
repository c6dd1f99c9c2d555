"""Writes a checkpoint, completely or not at all."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file

from hftrain import disk
from hftrain.config.errors import of_a_disk
from hftrain.config.nested import flatten_json
from hftrain.data.files import sha256_of
from hftrain.distributed import advancing
from hftrain.train.checkpoint.reading import FORMAT, sha256_of_json
from hftrain.train.checkpoint.runs import GB, REPLACED, SAVING, free_bytes, recover

PACKAGES = (
    "hftrain", "torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors", "peft", "deepspeed",
    "bitsandbytes", "numpy",
)  # fmt: skip


def save(
    accelerator: Accelerator,
    output_dir: str | Path,
    step: int,
    *,
    tensors: Iterable[tuple[str, torch.Tensor | None]],
    state: Mapping[str, Any],
    contract: Mapping[str, Any],
    export: Callable[[Path], object],
    max_shard_bytes: int = 4 * GB,
) -> Path | None:
    """Writes `OUT/checkpoint-{step}`; every rank calls, the main process writes. One shard at a time is held in memory.

    tensors: (name, unsharded tensor) of everything that resuming needs. Iteration may run collectives, so each rank
        iterates to the end; ranks other than the main one may yield None. A tensor may be freed when the next one is
        requested.
    state: JSON values, "samples_seen" among them. contract: JSON values, see `check_contract`.
    export: called on every rank with the folder to `save_pretrained` into; it finishes its collectives before it
    writes.

    Returns the folder, or None on every rank if the disk failed (full, quota, read-only, I/O error): then the
    incomplete folder is deleted, older checkpoints are intact, and a warning has the needed and the free space.
    """
    flatten_json(contract)  # refuses, on every rank, values that JSON cannot represent
    state_text, samples_seen = json.dumps(dict(state)), state["samples_seen"]
    folder = Path(output_dir) / f"checkpoint-{step}"
    staging = folder.with_name(SAVING + folder.name)
    main, disk = accelerator.is_main_process, _Disk()

    if main:
        with disk:
            recover(folder.parent)
            staging.mkdir(parents=True)
    accelerator.wait_for_everyone()
    with disk:
        export(staging)

    shards, needed = _Shards(staging, max_shard_bytes), 0
    for name, tensor in tensors:  # to the end even if the disk is full: other ranks wait in the next collective
        if main and tensor is not None:
            needed += tensor.nbytes
            if disk.error is None:
                with disk:
                    shards.add(name, tensor)
    if main and disk.error is None:
        with disk:
            shards.flush()
            (staging / "state.json").write_text(state_text)
            manifest = {
                "format": FORMAT,
                "step": step,
                "samples_seen": samples_seen,
                "world_size": accelerator.num_processes,
                "versions": versions(),
                "contract": dict(contract),
                "finite": not shards.non_finite,
                "tensors": shards.index,
            }
            _seal(staging, manifest)

    accelerator.wait_for_everyone()  # in the store: the main process may write for longer than a collective may take
    failed = [error for error in gather_object([disk.error]) if error]
    if main and not failed:
        with disk:
            _put_in_place(staging, folder)
    failed = failed or [error for error in gather_object([disk.error]) if error]
    if main and failed:
        shutil.rmtree(staging, ignore_errors=True)
        warnings.warn(
            f"{folder.name} was not saved: {failed[0]}. It needs about {needed / GB:.3f} GB; {folder.parent} has "
            f"{free_bytes(folder.parent) / GB:.3f} GB free. Older checkpoints are intact.",
            stacklevel=2,
        )
    elif main and shards.non_finite:
        warnings.warn(f"{folder.name} contains NaN or infinity in {', '.join(shards.non_finite[:9])}", stacklevel=2)
    accelerator.wait_for_everyone()
    return None if failed else folder


def refuges(output_dir: str | Path) -> list[Path]:
    """New folders to save in if the last checkpoint cannot be written to `output_dir`: beside it, and for temporary
    files."""
    folder = Path(output_dir).absolute()
    name = f"{folder.name}-rescued-{uuid.uuid4().hex[:8]}"
    return [folder.with_name(name), Path(tempfile.gettempdir()) / name]


class _Disk:
    """A `with` block that notes an error of the disk instead of raising it, since other ranks wait in a collective."""

    error: str | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not of_a_disk(error):
            return False
        self.error = self.error or str(error)
        return True


class _Shards:
    """Streams tensors into `training-0000k.safetensors`; `index`: name -> (file, key)."""

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        self.index: dict[str, tuple[str, str]] = {}
        self.non_finite: list[str] = []
        self._held: dict[str, torch.Tensor] = {}
        self._held_bytes, self._number = 0, 1
        self._exported: dict[str, tuple[str, torch.Tensor]] | None = None  # memory-mapped from the files

    def add(self, name: str, tensor: torch.Tensor) -> None:
        assert name not in self.index, f"two tensors are named {name}"
        if self._held_bytes + tensor.nbytes > self.max_bytes:
            self.flush()
        # A copy even on the CPU: ZeRO-3 frees a gathered parameter when the next one is requested.
        tensor = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        if not torch.isfinite(tensor.float() if tensor.dtype.itemsize == 1 else tensor).all():  # fp8 has no isfinite
            self.non_finite.append(name)
        kind, _, key = name.partition(".")
        place = self._find_exported(key, tensor) if kind in ("model", "ema") else None
        if place is None:
            place = (self._file, name)
            self._held[name] = tensor
            self._held_bytes += tensor.nbytes
        self.index[name] = place

    def flush(self) -> None:
        if self._held:
            save_file(self._held, self.folder / self._file)
            self._held, self._held_bytes, self._number = {}, 0, self._number + 1

    @property
    def _file(self) -> str:
        return f"training-{self._number:05d}.safetensors"

    def _find_exported(self, key: str, tensor: torch.Tensor) -> tuple[str, str] | None:
        """The place of these bytes in the export: under the same name or, if tied, under the saved name."""
        if self._exported is None:
            self._exported = {
                name: (file.relative_to(self.folder).as_posix(), exported)
                for file in sorted(self.folder.rglob("*.safetensors"))
                if not file.name.startswith("training-")
                for name, exported in load_file(file).items()
            }
        for name in [key] if key in self._exported else self._exported:
            file, exported = self._exported[name]
            alike = exported.dtype == tensor.dtype and exported.shape == tensor.shape
            if alike and torch.equal(exported.flatten().view(torch.uint8), tensor.flatten().view(torch.uint8)):
                return file, name
        return None


def _seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Flushes every file to the disk, then writes the manifest with their checksums and its own."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:
        digests = advancing(pool.map(sha256_of, files))
        manifest["files"] = {
            path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": digest}
            for path, digest in zip(files, digests, strict=True)
        }
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": sha256_of_json(manifest)}, indent=1))
    disk.sync_folder(folder)


def _put_in_place(staging: Path, folder: Path) -> None:
    """Gives a finished checkpoint its name, and replaces one of the same step (of a run resumed from before)."""
    replaced = folder.with_name(REPLACED + folder.name)
    if folder.exists():
        folder.rename(replaced)  # if it is killed here, `recover` restores the name
    disk.move(staging, folder)
    if replaced.exists():
        shutil.rmtree(replaced)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a run's numbers depend on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed
