"""Reads and verifies checkpoints."""

from __future__ import annotations

import hashlib
import json
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

FORMAT = 1


@dataclass(frozen=True)
class Saved:
    """A checkpoint: `tensors` maps each name to its tensor, which is read from the disk on access."""

    folder: Path
    step: int
    state: dict[str, Any]
    contract: dict[str, Any]
    manifest: dict[str, Any]
    tensors: Mapping[str, torch.Tensor]


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
    tensors = _TensorsOnDisk(folder, manifest["tensors"])
    return Saved(folder, manifest["step"], state, manifest["contract"], manifest, tensors)


def verify(folder: str | Path) -> list[str]:
    """The problems of a checkpoint, one line for each damaged file; [] if every byte is unchanged."""
    folder = Path(folder)
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return [str(error)]
    named = f"checkpoint-{manifest['step']}"
    if re.fullmatch(r"checkpoint-\d+", folder.name) and folder.name != named:
        return [f"manifest.json: this is the checkpoint of step {manifest['step']}: rename the folder to {named}"]
    with ThreadPoolExecutor() as pool:
        problems = advancing(pool.map(lambda item: damage_of(folder / item[0], **item[1]), manifest["files"].items()))
        return [f"{name}: {problem}" for name, problem in zip(manifest["files"], problems, strict=True) if problem]


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
    if manifest["format"] != FORMAT:
        raise ValueError(f"manifest.json: format {manifest['format']}, but this version of hftrain reads {FORMAT}")
    return manifest


def sha256_of_json(value: object) -> str:
    read_back = json.loads(json.dumps(value))  # keys that are numbers (id2label) are read as text, in another order
    return hashlib.sha256(json.dumps(read_back, sort_keys=True).encode()).hexdigest()


class _TensorsOnDisk(Mapping[str, torch.Tensor]):
    def __init__(self, folder: Path, index: dict[str, tuple[str, str]]):
        self._folder, self._index = folder, index
        self._files: dict[str, Any] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        file, key = self._index[name]
        if file not in self._files:
            self._files[file] = safe_open(self._folder / file, framework="pt")
        return self._files[file].get_tensor(key).clone()  # not a view of a file that will be deleted

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)
