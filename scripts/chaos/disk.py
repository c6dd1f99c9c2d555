"""A disk that refuses at each stage of a run: full, read-only, deleted, renamed. It ends, or goes on, with a sentence.

The disks are small file systems in memory, which only root can mount: without, no row has happened.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from chaos.signals import import_the_rest, run
from hftrain import checkpoint

Row = tuple[str, bool, bool, str]
STAGES = ("reading", "step", "evaluation", "save", "export", "test scores", "publishing")


def fill(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with open(out.parent / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass


def forbid(out: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(out.parent)], check=True)


def delete(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)


def rename(out: Path) -> None:
    if out.exists():
        out.rename(out.with_name("renamed"))


TROUBLES: dict[str, Callable[[Path], None]] = {
    "full": fill, "read-only": forbid, "deleted": delete, "renamed": rename,
}  # fmt: skip


def rows(troubles: tuple[str, ...] = tuple(TROUBLES), stages: tuple[str, ...] = STAGES) -> Iterator[Row]:
    torch.set_num_threads(1)
    import_the_rest()
    for trouble in troubles:
        for stage in stages:
            with tempfile.TemporaryDirectory() as folder, disk(Path(folder)) as place:
                if place is None:
                    yield f"disk: {trouble} while {stage}", False, False, "mounting is not allowed here"
                else:
                    yield row(Path(folder), place, trouble, stage)


@contextmanager
def disk(folder: Path) -> Iterator[Path | None]:
    """A file system of 4 MB."""
    place = folder / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def row(folder: Path, place: Path, trouble: str, stage: str) -> Row:
    out = place / "out"
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None  # where a run puts what its output folder does not take
    code, log = run(folder, stage, lambda: TROUBLES[trouble](out), out)
    happened = f"struck while {stage}" in log
    homes = [path for path in (out, place / "renamed", *folder.glob("*rescued*"), *place.glob("*rescued*"))]
    saved = [path for home in homes if home.is_dir() for path in checkpoint.checkpoints(home)]
    whole = all(checkpoint.verify(path) == [] for path in saved)
    # the state of the last step is on a disk, but for a run that ended before its first, or lost what it had deleted
    last = any(path.name == "checkpoint-4" for path in saved)
    kept = last or stage == "reading" or (trouble == "deleted" and stage in ("export", "test scores", "publishing"))
    clean = "Traceback" not in log and code in (0, 1)
    detail = "" if clean and whole and kept else f"code {code}, saved {[str(path) for path in saved]}: {log[-600:]}"
    return f"disk: {trouble} while {stage}", happened, clean and whole and kept, detail
