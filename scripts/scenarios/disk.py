"""A disk that refuses at each stage of a run: full, read-only, deleted, renamed. It ends, or goes on, with a sentence.

The disks are small file systems in memory, which only root can mount: for others, no try happens.
"""

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hftrain.train import checkpoint
from scenarios import Row, Try
from scenarios.program import import_the_rest, run

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


def of_trouble(trouble: str) -> Row:
    def at_each_stage(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
        import_the_rest()
        for stage in draw.sample(STAGES, 1) if sample else STAGES:
            own = folder / stage
            with disk(own) as place:
                if place is None:
                    yield Try(f"while {stage} (mounting is not allowed here)", False, None)
                else:
                    yield strike(own, place, trouble, stage)

    return f"disk {trouble} at each of {len(STAGES)} stages: a sentence, no state lost", at_each_stage


@contextmanager
def disk(folder: Path) -> Iterator[Path | None]:
    """A file system of 4 MB."""
    place = folder / "disk"
    place.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def strike(folder: Path, place: Path, trouble: str, stage: str) -> Try:
    out = place / "out"
    code, log = run(folder, stage, lambda: TROUBLES[trouble](out), out)
    homes = [path for path in (out, place / "renamed", *folder.glob("*rescued*"), *place.glob("*rescued*"))]
    saved = [path for home in homes if home.is_dir() for path in checkpoint.checkpoints(home)]
    whole = all(checkpoint.verify(path) == [] for path in saved)
    # the state of the last step is on a disk, but for a run that ended before its first, or lost what it had deleted
    last = any(path.name == "checkpoint-4" for path in saved)
    kept = last or stage == "reading" or (trouble == "deleted" and stage in ("export", "test scores", "publishing"))
    passed = "Traceback" not in log and code in (0, 1) and whole and kept
    problem = None if passed else f"code {code}, saved {[str(path) for path in saved]}: {log[-600:]!r}"
    return Try(f"while {stage}", f"struck while {stage}" in log, problem)


ROWS: list[Row] = [of_trouble(trouble) for trouble in TROUBLES]
