"""Waiting for another process that compiles a PyTorch extension, for instance DeepSpeed's.

torch waits while the file `lock` is in the extension's folder. A killed compilation leaves it there, so torch would
wait forever, before the watch over the processes begins."""

import time
from contextlib import suppress
from pathlib import Path

from torch.utils.file_baton import FileBaton

LONGEST_SECONDS = 900.0  # maximum time of a compilation without writing a file


def bound_waiting() -> None:
    """From now on, a process that waits in vain for a compilation ends with an error that names the lock."""
    FileBaton.wait = _wait  # type: ignore[assignment, method-assign]


def _wait(baton: FileBaton) -> None:
    lock, began, announced = Path(baton.lock_file_path), time.monotonic(), False
    while lock.exists():
        with suppress(FileNotFoundError):  # the compiler removes files
            quiet = time.time() - max(path.stat().st_mtime for path in [lock, *lock.parent.iterdir()])
            if quiet > LONGEST_SECONDS:
                raise ValueError(
                    f"{lock} exists, but nothing in its folder was written for {quiet / 60:.0f} minutes: the "
                    "compilation that created it was killed. Delete this file and start again"
                )
        if not announced and time.monotonic() - began > 5:
            print(f"waiting for another process that compiles {lock.parent.name} ({lock})", flush=True)
            announced = True
        time.sleep(baton.wait_seconds)
