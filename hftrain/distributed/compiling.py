"""Waiting for another process that compiles an extension of PyTorch's, DeepSpeed's for instance.

torch waits as long as the file `lock` is in the extension's folder, which a compilation that was killed leaves there:
for ever, and before the watch over the processes has begun.
"""

import time
from contextlib import suppress
from pathlib import Path

from torch.utils.file_baton import FileBaton

LONGEST_SECONDS = 900.0  # that a compilation may take without writing a file


def bound_waiting() -> None:
    """From now on a process that waits in vain for a compilation ends with the lock's name."""
    FileBaton.wait = _wait  # type: ignore[assignment, method-assign]


def _wait(baton: FileBaton) -> None:
    lock, began, announced = Path(baton.lock_file_path), time.monotonic(), False
    while lock.exists():
        with suppress(FileNotFoundError):  # of what the compiler removes
            quiet = time.time() - max(path.stat().st_mtime for path in [lock, *lock.parent.iterdir()])
            if quiet > LONGEST_SECONDS:
                raise ValueError(
                    f"{lock} is there, and nothing in its folder was written for {quiet / 60:.0f} minutes: the "
                    "compilation that made it was killed. Delete this file, and start again"
                )
        if not announced and time.monotonic() - began > 5:
            print(f"waiting for another process that compiles {lock.parent.name} ({lock})", flush=True)
            announced = True
        time.sleep(baton.wait_seconds)
