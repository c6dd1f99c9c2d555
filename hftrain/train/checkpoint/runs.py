"""The checkpoints of a run's output folder: which one to resume from, which to delete, and whether there is room for
more."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed
from accelerate import PartialState

from hftrain import disk
from hftrain.distributed import MainThreads
from hftrain.train.checkpoint.reading import checkpoints, read_manifest, require_intact, step_of, verify, why_unfit

GB = 10**9
SAVING, DELETING, REPLACED = ".saving-", ".deleting-", ".replaced-"  # prefixes of incomplete or replaced folders
FINAL_FILES = ("all_results.json", "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
STRAY = re.compile(rf"{disk.STAGED}|\.lock-claim|\.lock-after-[0-9a-f]+")  # files that a kill may leave behind
T = TypeVar("T")


def find(output_dir: str | Path, resume_from_checkpoint: str | None) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from, or None for a new run, and lines to print on the ones passed over.

    resume_from_checkpoint: a folder, "auto" (the newest that verifies and is finite, or a new run without one) or None
    (a new run; a folder with a run is refused). Every rank calls, the main process decides for all; the files are
    verified by all. Raises ValueError that names the ways out.
    """
    output_dir, chosen = Path(output_dir), resume_from_checkpoint not in (None, "auto")
    candidates, final = on_main(lambda: _candidates(output_dir, resume_from_checkpoint))
    passed_over: list[str] = []
    for folder in candidates:
        problems = _verify_together(folder)
        if problems and chosen:
            on_main(lambda: require_intact(folder))  # noqa: B023, raises with the way out
        reason = problems[0] if problems else None
        if not chosen:
            reason = reason or on_main(lambda: why_unfit(folder, verified=True))  # noqa: B023
        if reason is None:
            return folder, passed_over
        passed_over.append(f"passed over {folder.name}: {reason}")
    if passed_over:
        raise ValueError(
            f"{output_dir} has no checkpoint to resume from ({'; '.join(passed_over)}). "
            "Start a new run in another --output_dir, or choose a checkpoint with --resume_from_checkpoint."
        )
    if final:
        raise ValueError(
            f"{output_dir} contains a finished run ({final[0]}) but no checkpoint: set another --output_dir."
        )
    return None, []


def _candidates(output_dir: Path, resume_from_checkpoint: str | None) -> tuple[list[Path], list[str]]:
    """The checkpoints to try, in this order, and the files of a finished run."""
    place = _nearest(output_dir)
    if not place.is_dir() or not os.access(place, os.W_OK):
        why = "not writable" if place.is_dir() else "no folder"
        raise ValueError(f"{output_dir} cannot be written, since {place} is {why}: choose another --output_dir.")
    if resume_from_checkpoint not in (None, "auto"):
        return [Path(resume_from_checkpoint)], []
    saved = checkpoints(output_dir)
    final = [name for name in FINAL_FILES if (output_dir / name).exists()]
    if resume_from_checkpoint is None and (saved or final):
        raise ValueError(
            f"{output_dir} already contains a run ({', '.join([path.name for path in saved] + final)}). "
            "Continue it with --resume_from_checkpoint auto, or choose another --output_dir."
        )
    return saved[::-1], final


def _verify_together(folder: Path) -> list[str]:
    """`verify`, shared by the processes whose machine sees the folder that the main process sees."""
    if not _several():
        return verify(folder)
    try:
        seen: str | None = (folder / "manifest.json").read_text()
    except (OSError, ValueError):
        seen = None
    exchange = MainThreads()
    manifests = exchange.gather(seen)
    ranks = [rank for rank, manifest in enumerate(manifests) if manifest == manifests[0]]
    rank = torch.distributed.get_rank()
    mine = verify(folder, ranks.index(rank), len(ranks)) if rank in ranks else []
    return list(dict.fromkeys(problem for problems in exchange.gather(mine) for problem in problems))


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def contract_of(output_dir: str | Path, resume_from_checkpoint: str | None) -> dict[str, Any]:
    """The unverified contract of the run that `find` would resume; {} for a new run. Every rank calls."""

    def read() -> dict[str, Any]:
        if resume_from_checkpoint is None:
            return {}
        auto = resume_from_checkpoint == "auto"
        for folder in reversed(checkpoints(output_dir)) if auto else [Path(resume_from_checkpoint)]:
            with suppress(ValueError):  # a damaged one, which `find` reports
                return read_manifest(folder)["contract"]
        return {}

    return on_main(read)


def on_main(decide: Callable[[], T]) -> T:
    """The main process's result or ValueError, on every rank: other machines may see another folder."""
    answer: list[Any] = [None, None]
    several = _several()
    if not several or torch.distributed.get_rank() == 0:
        try:
            answer[0] = decide()
        except ValueError as error:
            answer[1] = str(error)
    if several:
        PartialState().wait_for_everyone()  # in the store: verifying may take longer than a collective may wait
        torch.distributed.broadcast_object_list(answer)
    if answer[1] is not None:
        raise ValueError(answer[1])
    return answer[0]


def rotate(
    output_dir: str | Path,
    keep: int,
    best: str | Path | None = None,
    saved_now: Path | None = None,
    in_use: Collection[str] = (),
) -> list[Path]:
    """Deletes the oldest checkpoints beyond `keep`, but not `best` and not the newest that verifies and is finite.

    Main process only. Returns what it deleted.

    Args:
        saved_now: a checkpoint that `save` has just returned: its files have been hashed and are not read again.
        in_use: names of checkpoints that are not deleted yet.
    """
    assert keep >= 1
    saved = checkpoints(output_dir)
    kept = {*in_use, *([] if best is None else [Path(best).name])}
    old = [folder for folder in saved[:-keep] if folder.name not in kept]
    if old:
        good = (folder for folder in reversed(saved) if not why_unfit(folder, verified=folder == saved_now))
        newest_good = next(good, None)
        old = [folder for folder in old if folder != newest_good]
    for folder in old:
        doomed = folder.with_name(DELETING + folder.name)
        try:
            folder.rename(doomed)  # if it is killed while deleting, no incomplete checkpoint has a valid name
            shutil.rmtree(doomed)
        except OSError as error:  # not worth ending the run
            warnings.warn(f"{folder} could not be deleted: {error}", stacklevel=2)
    return old


def set_aside(output_dir: str | Path, step: int) -> list[str]:
    """Renames the checkpoints after `step`, from which a run resumes; returns lines to print. Main process only.

    They belong to an abandoned course: otherwise `auto` would resume from the newest of them, and `rotate` keep them.
    """
    notes = []
    for folder in checkpoints(output_dir):
        if step_of(folder) > step:
            name = f"{folder.name}.given-up"
            shutil.rmtree(folder.with_name(name), ignore_errors=True)
            folder.rename(folder.with_name(name))
            notes.append(f"{folder} is of a later step: renamed to {name}, which you may delete")
    return notes


def recover(output_dir: str | Path) -> None:
    """Removes what a killed process left half-written. Only at the start of the run with the lock: files that a living
    run is about to rename are removed too."""
    clear_unfinished(output_dir)
    for path in Path(output_dir).glob(".*"):
        if STRAY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def clear_unfinished(output_dir: str | Path) -> None:
    """Removes half-saved and half-deleted checkpoints. Only for the run with the lock, while it does neither."""
    for path in Path(output_dir).glob(f"{REPLACED}checkpoint-*"):
        original = path.with_name(path.name.removeprefix(REPLACED))
        if original.exists():
            shutil.rmtree(path)
        else:
            path.rename(original)
    for prefix in (SAVING, DELETING):
        for path in Path(output_dir).glob(f"{prefix}checkpoint-*"):
            shutil.rmtree(path)


def check_free_space(output_dir: str | Path, needed_bytes: int, copies: int) -> None:
    """Raises ValueError unless `copies` checkpoints of `needed_bytes` fit; existing ones need no more room."""
    copies = max(1, copies - len(checkpoints(output_dir)))
    free = free_bytes(output_dir)
    if copies * needed_bytes > free:
        raise ValueError(
            f"checkpoints need {copies} x {needed_bytes / GB:.3f} = {copies * needed_bytes / GB:.3f} GB, {output_dir} "
            f"has {free / GB:.3f} GB free: lower --save_total_limit, or choose an --output_dir with more room."
        )


def free_bytes(path: str | Path) -> int:
    """Free bytes where `path` is, or will be."""
    return shutil.disk_usage(_nearest(Path(path))).free


def _nearest(path: Path) -> Path:
    """`path`, or the nearest existing folder above it."""
    path = path.absolute()
    return next(place for place in [path, *path.parents] if place.exists())


@dataclass(frozen=True)
class Row:
    """A line of `hftrain verify`: good without `problems`; `samples` and `finite` are None without a manifest."""

    name: str
    step: int
    samples: int | None
    bytes: int
    finite: bool | None
    problems: list[str]


def describe(path: str | Path) -> list[Row]:
    """Verifies one checkpoint, or all of a run's output folder, oldest first. Raises ValueError without a
    checkpoint."""
    path = Path(path).resolve()
    alone = path.is_dir() and re.fullmatch(r"checkpoint-\d+", path.name)
    folders = [path] if alone else checkpoints(path)
    if not folders:
        raise ValueError(f"no checkpoint in {path}: give an output folder, or a checkpoint-N in it")
    return [_row(folder) for folder in folders]


def _row(folder: Path) -> Row:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        manifest = read_manifest(folder)
    except ValueError:
        manifest = {"samples_seen": None, "finite": None}
    return Row(folder.name, step_of(folder), manifest["samples_seen"], size, manifest["finite"], verify(folder))
