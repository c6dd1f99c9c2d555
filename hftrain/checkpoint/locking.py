"""One run at a time in an output folder.

The kernel's file locks are not used: cluster file systems often lack them, and data workers that outlive a killed run
would hold them. The lock is a file that names host, pid and the process's start, since pids are used again.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from hftrain.checkpoint.runs import recover


@contextmanager
def lock(output_dir: str | Path) -> Iterator[None]:
    """Keeps a second run out until the block ends; clears away what a killed run left. Main process only.

    Raises ValueError that names who holds the lock. One whose process is dead is taken over, with a printed line.
    """
    path = Path(output_dir) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    text = json.dumps({**me, "since": time.strftime("%Y-%m-%d %H:%M:%S %z")})
    while not _create(path, text):
        _remove_if_stale(path)
    try:
        recover(output_dir)
        yield
    finally:
        if _read(path) == text:
            path.unlink()


def _create(path: Path, text: str) -> bool:
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    os.write(file, text.encode())
    os.close(file)
    return True


def _remove_if_stale(path: Path) -> None:
    text = _read(path)
    if text is None:  # released just now
        return
    by_hand = f"If that run is dead, delete {path} by hand."
    try:
        owner = json.loads(text)
    except ValueError:
        raise ValueError(f"{path} is unreadable, so another run may be in this folder. {by_hand}") from None
    who = f"pid {owner['pid']} on {owner['host']} since {owner['since']}"
    if owner["host"] != socket.gethostname():
        raise ValueError(f"{path.parent} is in use by {who}, another machine. {by_hand}")
    if _started(owner["pid"]) == owner["started"]:
        raise ValueError(f"{path.parent} is in use by {who}: wait for it, stop it, or choose another --output_dir.")
    # Several runs may find the same dead owner at once: who removes its lock must be alone, and look again.
    claim = path.with_name(".lock-claim")
    if not _create(claim, text):
        raise ValueError(f"{path.parent} is being taken over by another run. If it is not, delete {claim} by hand.")
    try:
        if _read(path) == text:
            path.unlink()
            print(f"took over the lock of {path.parent} from {who}, which is dead")
    finally:
        claim.unlink()


def _started(pid: int) -> float | None:
    """When a process began; None if it is dead."""
    try:
        if sys.platform != "linux":
            return psutil.Process(pid).create_time()
        # Ticks since boot, which setting the clock does not move. A zombie is dead: its parent has yet to notice.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else float(fields[18])
    except (OSError, psutil.NoSuchProcess):
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
