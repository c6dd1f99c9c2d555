"""Reads and verifies checkpoints."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from hftrain.data.sealed import damage_of
from hftrain.distributed import advancing
from hftrain.train.checkpoint.files import DTYPES

UNSHARDED, SHARDED = 1, 2  # formats of the manifest


@dataclass(frozen=True)
class Saved:
    """A checkpoint: `tensors` maps each name to its tensor, which is read from the disk on access."""

    folder: Path
    step: int
    state: dict[str, Any]
    contract: dict[str, Any]
    manifest: dict[str, Any]
    tensors: UnshardedTensors


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The folders `checkpoint-N` of a run, in order of N, also damaged ones."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in folders if path.is_dir()), key=step_of)


def step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def read(folder: str | Path, *, verified: bool = False) -> Saved:
    """Opens a checkpoint after verifying it; `verified` skips that, for a folder that `find` has just verified.

    Raises ValueError that names the damaged files and another checkpoint that verifies.
    """
    folder = Path(folder)
    if not verified:
        require_intact(folder)
    manifest = read_manifest(folder)
    state = json.loads((folder / "state.json").read_text())
    kind = ShardedTensors if manifest["format"] == SHARDED else UnshardedTensors
    tensors = kind(folder, manifest["tensors"])
    return Saved(folder, manifest["step"], state, manifest["contract"], manifest, tensors)


def verify(folder: str | Path, part: int = 0, parts: int = 1) -> list[str]:
    """The problems of a checkpoint, one line for each damaged file; [] if every byte is unchanged. Of `parts` parts of
    the files, only one is read."""
    folder = Path(folder)
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return [str(error)]
    named = f"checkpoint-{manifest['step']}"
    if re.fullmatch(r"checkpoint-\d+", folder.name) and folder.name != named:
        return [f"manifest.json: this is the checkpoint of step {manifest['step']}: rename the folder to {named}"]
    files = dict([*manifest["files"].items()][part::parts])
    with ThreadPoolExecutor() as pool:
        problems = advancing(pool.map(lambda item: damage_of(folder / item[0], **item[1]), files.items()))
        return [f"{name}: {problem}" for name, problem in zip(files, problems, strict=True) if problem]


def why_unfit(folder: Path, *, verified: bool = False) -> str | None:
    """The reason why a run should not automatically resume from this checkpoint; None if it may. `verified`: the files
    were read already, only the manifest is looked at."""
    problems = [] if verified else verify(folder)
    if problems:
        return problems[0]
    return None if read_manifest(folder)["finite"] else "contains NaN or infinity"


def require_intact(folder: Path) -> None:
    problems = verify(folder)
    if problems:
        others = [other for other in reversed(checkpoints(folder.parent)) if other.name != folder.name]
        good = next((other for other in others if not why_unfit(other)), None)
        way_out = (
            "No other checkpoint beside it is good: start a new run" if folder.is_dir() else "The folder does not exist"
        )
        way_out = f"{good} is good: resume from it" if good else way_out
        raise ValueError(f"{folder} cannot be used: {'; '.join(problems)}. {way_out}.")


def read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        unchanged = manifest.pop("sha256") == sha256_of_json(manifest)
    except FileNotFoundError:
        raise ValueError(
            "manifest.json: missing, so this is not a checkpoint of hftrain, or its save was not finished"
        ) from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"manifest.json: unreadable ({error})") from None
    if not unchanged:
        raise ValueError("manifest.json: its content has changed since it was written (sha256)")
    if manifest["format"] not in (UNSHARDED, SHARDED):
        known = f"{UNSHARDED} and {SHARDED}"
        raise ValueError(f"manifest.json: format {manifest['format']}, but this version of hftrain reads {known}")
    return manifest


def sha256_of_json(value: object) -> str:
    read_back = json.loads(json.dumps(value))  # keys that are numbers (id2label) are read as text, in another order
    return hashlib.sha256(json.dumps(read_back, sort_keys=True).encode()).hexdigest()


class UnshardedTensors(Mapping[str, torch.Tensor]):
    """The tensors of a checkpoint by name; each is read from the disk on access. `index`: name -> where it is."""

    def __init__(self, folder: Path, index: dict[str, Any]):
        self._folder, self._index = folder, index
        self._files: dict[str, Any] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        file, key = self._index[name]
        return self._open(file).get_tensor(key).clone()  # not a view of a file that will be deleted

    def describe(self, name: str) -> torch.Tensor:
        """Shape and type of a tensor, on the meta device."""
        file, key = self._index[name]
        about = self._open(file).get_slice(key)
        return torch.empty(about.get_shape(), dtype=DTYPES[about.get_dtype()], device="meta")

    def part(self, name: str, start: int, count: int) -> torch.Tensor:
        """`count` numbers of the flattened tensor from `start` on; only the rows that they are in are read."""
        file, key = self._index[name]
        return self._flat(file, key, start, count)

    def _flat(self, file: str, key: str, start: int, count: int) -> torch.Tensor:
        opened = self._open(file).get_slice(key)
        shape = opened.get_shape()
        width = math.prod(shape[1:])
        if not shape or not width:
            return self._open(file).get_tensor(key).flatten()[start : start + count].clone()
        first, last = start // width, -(-(start + count) // width)
        return opened[first:last].flatten()[start - first * width :][:count].clone()

    def _open(self, file: str) -> Any:
        if file not in self._files:
            self._files[file] = safe_open(self._folder / file, framework="pt")
        return self._files[file]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


class ShardedTensors(UnshardedTensors):
    """The same for a sharded checkpoint. `index`: name -> type, shape, and pieces: file, start, count."""

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self._index[name]["shape"]
        return self.part(name, 0, math.prod(shape)).view(shape)

    def describe(self, name: str) -> torch.Tensor:
        about = self._index[name]
        return torch.empty(about["shape"], dtype=DTYPES[about["dtype"]], device="meta")

    def part(self, name: str, start: int, count: int) -> torch.Tensor:
        about = self._index[name]
        values = torch.empty(count, dtype=DTYPES[about["dtype"]])
        for file, first, size in about["pieces"]:
            begin, end = max(start, first), min(start + count, first + size)
            if begin < end:
                values[begin - start : end - start] = self._flat(file, name, begin - first, end - begin)
        return values
