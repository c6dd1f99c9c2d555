"""Writes a checkpoint, completely or not at all."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from hftrain import disk
from hftrain.config.errors import of_a_disk
from hftrain.config.nested import flatten_json
from hftrain.data.files import sha256_of
from hftrain.distributed import MainThreads, Piece, advancing, moved
from hftrain.train.checkpoint.files import NAMES, write_tensors
from hftrain.train.checkpoint.reading import SHARDED, UNSHARDED, sha256_of_json
from hftrain.train.checkpoint.runs import GB, REPLACED, SAVING, clear_unfinished, free_bytes

PACKAGES = (
    "hftrain", "torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors", "peft", "deepspeed",
    "bitsandbytes", "numpy",
)  # fmt: skip
SHARD, TRAINING = "shard-", "training"
OURS = (SHARD, f"{TRAINING}-")  # names of files that are no part of the export


class Result(NamedTuple):
    """The outcome of a save, equal on every process but for the warnings, which only the main process has."""

    folder: Path | None
    warnings: list[str]

    def warn(self) -> Path | None:
        for warning in self.warnings:
            warnings.warn(warning, stacklevel=3)
        return self.folder


class Exchange(Protocol):
    """How the processes of a save learn from each other."""

    def gather(self, value: object) -> list[Any]: ...

    def share(self, value: object) -> Any: ...


def save(accelerator: Accelerator, output_dir: str | Path, step: int, **what: Any) -> Path | None:
    """`write` in this thread; warns itself, and returns only the folder."""
    return write(accelerator, output_dir, step, **what).warn()


def write(
    accelerator: Accelerator,
    output_dir: str | Path,
    step: int,
    *,
    pieces: Iterable[Piece],
    state: Mapping[str, Any],
    contract: Mapping[str, Any],
    export: Callable[[Path], object],
    sharded: bool = False,
    lasting: bool = False,
    exchange: Exchange | None = None,
    pulse: Callable[[], object] = moved,
    max_file_bytes: int = 4 * GB,
    then: Callable[[Path], object] = lambda folder: None,
) -> Result:
    """Writes `OUT/checkpoint-{step}`; every rank calls. One file at a time is held in memory.

    Args:
        pieces: everything that resuming needs. Iteration may run collectives, so each rank iterates to the end. The
            values of a piece may be overwritten when the next one is requested, unless they are `lasting`.
        state: JSON values, "samples_seen" among them. contract: JSON values, see `check_contract`.
        export: called on the main process with the folder to `save_pretrained` into.
        sharded: every rank writes its pieces; otherwise the main process has them all.
        exchange: between the threads that call this; `distributed.MainThreads` if not given.
        pulse: called after each few megabytes.
        then: called on the main process with the finished folder, before any process returns.

    The folder is None on every rank if a disk failed (full, quota, read-only, I/O error): then the incomplete folder is
    deleted, older checkpoints are intact, and a warning has the needed and the free space.
    """
    flatten_json(contract)  # refuses, on every rank, values that JSON cannot represent
    state_text, samples_seen = json.dumps(dict(state)), state["samples_seen"]
    folder = Path(output_dir) / f"checkpoint-{step}"
    staging = folder.with_name(SAVING + folder.name)
    exchange = exchange or MainThreads()
    main, disk = accelerator.is_main_process, _Disk()
    if main:
        with disk:
            clear_unfinished(folder.parent)
            staging.mkdir(parents=True)
            export(staging)
    if sharded:
        exchange.share(None)  # the folder is there
    prefix = f"{SHARD}{accelerator.process_index:05d}" if sharded else TRAINING
    files = _Files(staging, prefix, max_file_bytes, pulse, lasting=lasting)
    for piece in pieces:  # to the end even if the disk is full: other ranks wait in the next collective
        files.needed += piece.values.nbytes
        if disk.error is None:
            with disk:
                files.add(piece)
    if disk.error is None:
        with disk:
            files.flush()
    report = {"error": disk.error, **files.report()}
    reports = exchange.gather(report) if sharded else [report]
    finished, notes = False, []
    if main:
        failed = [other["error"] for other in reports if other["error"]]
        non_finite = sorted({name for other in reports for name in other["non_finite"]})
        with disk:
            if not failed:
                (staging / "state.json").write_text(state_text)
                manifest = {
                    "format": SHARDED if sharded else UNSHARDED,
                    "step": step,
                    "samples_seen": samples_seen,
                    "world_size": accelerator.num_processes,
                    "versions": versions(),
                    "contract": dict(contract),
                    "finite": not non_finite,
                    "tensors": _joined(reports) if sharded else _places(report),
                }
                _seal(staging, manifest, {name: file for other in reports for name, file in other["files"].items()})
                _put_in_place(staging, folder)
                finished = True
        failed = failed or [disk.error]
        if not finished:
            shutil.rmtree(staging, ignore_errors=True)
            needed = sum(other["needed"] for other in reports)
            notes.append(
                f"{folder.name} was not saved: {failed[0]}. It needs about {needed / GB:.3f} GB; {folder.parent} has "
                f"{free_bytes(folder.parent) / GB:.3f} GB free. Older checkpoints are intact."
            )
        else:
            if non_finite:
                notes.append(f"{folder.name} contains NaN or infinity in {', '.join(non_finite[:9])}")
            then(folder)
    return Result(folder if exchange.share(finished) else None, notes)


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


class _Files:
    """Streams pieces into files `PREFIX-0000k.safetensors`; `index`: name -> where it is."""

    def __init__(self, folder: Path, prefix: str, max_bytes: int, pulse: Callable[[], object], *, lasting: bool):
        self.folder, self.prefix, self.max_bytes, self.pulse = folder, prefix, max_bytes, pulse
        self.lasting = lasting
        self.index: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, Any]] = {}  # name -> size and sha256
        self.non_finite: list[str] = []
        self.needed = 0
        self._held: dict[str, torch.Tensor] = {}
        self._held_bytes = 0
        self._exported: dict[str, tuple[str, torch.Tensor]] | None = None  # memory-mapped from the files

    def add(self, piece: Piece) -> None:
        name, values = piece.name, piece.values
        assert name not in self.index, f"two tensors are named {name}"
        if self._held_bytes + values.nbytes > self.max_bytes:
            self.flush()
        # A copy even on the CPU: ZeRO-3 reads swapped values into the same memory when the next one is requested.
        values = values.detach().to("cpu", copy=not self.lasting, memory_format=torch.contiguous_format).contiguous()
        if not is_finite(values):
            self.non_finite.append(name)
        kind, _, key = name.partition(".")
        exported = kind in ("model", "ema") and piece.complete
        place = self._find_exported(key, values) if exported else None
        if place is None:
            place = (self._file, name)
            self._held[name] = values
            self._held_bytes += values.nbytes
        about = {"shape": piece.shape, "dtype": NAMES[values.dtype], "start": piece.start, "count": values.numel()}
        self.index[name] = {"place": place, **about}

    def flush(self) -> None:
        if self._held:
            self.files[self._file] = write_tensors(self.folder / self._file, self._held, self.pulse)
            self._held, self._held_bytes = {}, 0

    def report(self) -> dict[str, Any]:
        """What the main process needs to know of this process's files, as JSON values."""
        return {"index": self.index, "files": self.files, "non_finite": self.non_finite, "needed": self.needed}

    @property
    def _file(self) -> str:
        return f"{self.prefix}-{len(self.files) + 1:05d}.safetensors"

    def _find_exported(self, key: str, tensor: torch.Tensor) -> tuple[str, str] | None:
        """The place of these bytes in the export: under the same name or, if tied, under the saved name."""
        if self._exported is None:
            self._exported = {
                name: (file.relative_to(self.folder).as_posix(), exported)
                for file in sorted(self.folder.rglob("*.safetensors"))
                if not file.name.startswith(OURS)  # nor of another process, which writes them now
                for name, exported in load_file(file).items()
            }
        for name in [key] if key in self._exported else self._exported:
            file, exported = self._exported[name]
            alike = exported.dtype == tensor.dtype and exported.shape == tensor.shape
            if alike and torch.equal(exported.flatten().view(torch.uint8), tensor.flatten().view(torch.uint8)):
                return file, name
        return None


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are finite; a sum that is not finite may also be an overflow."""
    if not tensor.is_floating_point():
        return True
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # fp8 has neither sum nor isfinite
    return bool(wide.sum().isfinite()) or bool(wide.isfinite().all())


def _places(report: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {name: piece["place"] for name, piece in report["index"].items()}


def _joined(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Name -> shape, type and pieces (file, start, count) of each tensor, of which no number is missing or twice."""
    tensors: dict[str, Any] = {}
    for report in reports:
        for name, piece in report["index"].items():
            about = tensors.setdefault(name, {"dtype": piece["dtype"], "shape": list(piece["shape"]), "pieces": []})
            about["pieces"].append([piece["place"][0], piece["start"], piece["count"]])
    for name, about in tensors.items():
        about["pieces"].sort(key=lambda piece: piece[1:])
        end = 0
        for _, start, count in about["pieces"]:
            assert start == end, f"the pieces of {name} {about['shape']} do not meet: {about['pieces']}"
            end += count
        assert end == math.prod(about["shape"]), f"the pieces of {name} {about['shape']} end at {end}"
    return tensors


def _seal(folder: Path, manifest: dict[str, Any], known: Mapping[str, Any]) -> None:
    """Flushes every file to the disk, then writes the manifest with their checksums and its own.

    known: files whose size and checksum are known since they were written.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    with ThreadPoolExecutor() as pool:
        others = [name for name in sorted(paths) if name not in known]
        digests = dict(zip(others, advancing(pool.map(lambda name: sha256_of(paths[name]), others)), strict=True))
    measured = {name: {"size": paths[name].stat().st_size, "sha256": digest} for name, digest in digests.items()}
    manifest["files"] = dict(sorted({**known, **measured}.items()))
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
