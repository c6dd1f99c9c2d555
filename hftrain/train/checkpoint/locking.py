"""One run at a time in an output folder.

The kernel's file locks are not used: cluster file systems often lack them, and data workers that outlive a killed run
would keep them. The lock is the file `.lock`, which names its owner and is touched every few seconds while the owner
lives.

- It is written under another name and linked, so that a kill or a full disk leaves no incomplete lock.
- The owner of a lock from this machine and PID namespace is dead if no process has its pid and start time.
- The owner of a lock from elsewhere is dead if `BEATS` checks, `BEAT_SECONDS` apart, see no touch. Clocks are not
  compared.
- The successor of a dead lock is the run that links `.lock-after-KEY`, where KEY belongs to this one dead lock, and
  then renames it to `.lock`. If it is killed in between, its link is a dead lock with its own successor.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from hftrain import disk
from hftrain.train.checkpoint.runs import recover

BEAT_SECONDS, BEATS = 5.0, 12  # a lock from elsewhere is stale after a minute without a sign of life
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}  # file systems without hard links


class Seen(NamedTuple):
    """A lock file as it was at one time."""

    text: str
    inode: int
    touched: int

    @property
    def owner(self) -> dict[str, Any] | None:
        """None if the file is empty or cut short."""
        try:
            owner = json.loads(self.text)
            return owner if {"host", "pid", "started", "since"} <= owner.keys() else None
        except (ValueError, AttributeError):
            return None

    @property
    def key(self) -> str:
        """Of this one lock: no later one has it."""
        identity = self.text if self.owner else f"{self.inode} {self.touched} {self.text}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


@contextmanager
def lock(output_dir: str | Path) -> Iterator[None]:
    """Excludes a second run until the block ends; removes leftovers of a killed run. Main process only.

    The lock of a dead owner is taken over, with a printed line; if it is from another machine or container, this takes
    `BEATS * BEAT_SECONDS`.

    Raises:
        ValueError: the folder cannot be written, or another run has the lock (the message names the owner).
    """
    path = Path(output_dir) / ".lock"
    text = json.dumps(_me())
    try:
        _acquire(path, text)
        recover(output_dir)
    except OSError as error:
        _release(path, text)
        raise ValueError(
            f"{output_dir} cannot be written ({error}): make room there, repair its permissions, "
            "or choose another --output_dir."
        ) from error
    left = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, text, left), daemon=True, name="hftrain lock")
    heart.start()
    try:
        yield
    finally:
        left.set()
        heart.join()
        _release(path, text)


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "machine": _machine(),
        "slurm_job": [os.environ.get("SLURM_CLUSTER_NAME", ""), os.environ.get("SLURM_JOB_ID", "")],
        "slurm_restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "key": uuid.uuid4().hex,
    }


def _machine() -> list[str]:
    """The scope of process ids: containers may share a host's name, and a reboot changes all processes."""
    if sys.platform != "linux":
        return [socket.gethostname(), f"{psutil.boot_time():.0f}"]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return [socket.gethostname(), boot, os.readlink("/proc/self/ns/pid")]


def _acquire(path: Path, text: str) -> None:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _create(path, text):
            return
        first = seen = _look(path)
        place = path
        while first and seen:  # None: just released
            why = _why_dead(place, seen)
            if why is None:
                break
            place = path.with_name(f".lock-after-{seen.key}")
            if _create(place, text):
                now = _look(path)
                if now and now.key == first.key:
                    with suppress(FileNotFoundError):
                        place.rename(path)
                        print(f"took over the lock of {path.parent} {why}", flush=True)
                        return
                place.unlink(missing_ok=True)  # another process was faster, and may have released it already
                break
            seen = _look(place)


def _create(path: Path, text: str) -> bool:
    """Creates a complete lock file; False if there is one already."""
    try:
        with disk.beside(path) as staged:
            staged.write_text(text)
            disk.sync(staged)
            return _link(staged, path, text)
    except FileNotFoundError:  # the folder, or the staged files in it, were just removed
        return False


def _link(staged: Path, path: Path, text: str) -> bool:
    """Gives the staged lock its name; False if the name exists already."""
    try:
        os.link(staged, path)
    except FileExistsError:
        seen = _look(path)
        return seen is not None and seen.text == text  # NFS may report this for a link that it has just created
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        try:
            with open(path, "x") as file:
                file.write(text)
        except FileExistsError:
            return False
    return True


def _why_dead(path: Path, seen: Seen) -> str | None:
    """The rest of the message on the takeover; None if the lock has changed meanwhile.

    Raises:
        ValueError: its owner is alive.
    """
    owner = seen.owner
    if owner is None:  # written by a file system without links, or by an older version
        time.sleep(BEAT_SECONDS)
        return "from a run that was killed while creating it" if _look(path) == seen else None
    who = f"pid {owner['pid']} on {owner['host']} since {owner['since']}"
    out = "wait for it, stop it, or choose another --output_dir."
    mine = _me()
    if owner.get("machine") == mine["machine"]:
        if _started(owner["pid"]) == owner["started"]:
            raise ValueError(f"{path.parent} is in use by {who}: {out}")
        return f"from {who}, which is dead"
    same_job = owner.get("slurm_job") == mine["slurm_job"] and all(mine["slurm_job"][1:])
    if same_job and mine["slurm_restarts"] > owner["slurm_restarts"]:
        return f"from {who}, which Slurm ended before it restarted job {mine['slurm_job'][1]}"
    seconds = BEATS * BEAT_SECONDS
    print(f"{path.parent} is locked by {who}, elsewhere: watching for {seconds:g} s for signs of life", flush=True)
    for _ in range(BEATS):
        time.sleep(BEAT_SECONDS)
        now = _look(path)
        if now is None or now.text != seen.text:
            return None
        if now != seen:
            raise ValueError(f"{path.parent} is in use by {who}, another machine or container, which is alive: {out}")
    return f"from {who}, which gave no sign of life for {seconds:g} s"


def _beat(path: Path, text: str, left: threading.Event) -> None:
    while not left.wait(BEAT_SECONDS):
        with suppress(OSError):  # the disk is full or unreachable: the next write reports it
            seen = _look(path)
            if seen is None and path.parent.is_dir():  # deleted, perhaps with its folder, which exists again
                _create(path, text)
            elif seen and seen.text == text:
                os.utime(path)
            elif seen:
                owner = seen.owner or {}
                who = f"pid {owner.get('pid')} on {owner.get('host')}"
                # This run must not write any more, but the main thread may be writing.
                os.write(
                    2,
                    f"\nhftrain: {path.parent} was taken over by {who} while this run was suspended for over "
                    f"{BEATS * BEAT_SECONDS:g} s: this run ends; that one resumes the last checkpoint.\n".encode(),
                )
                os._exit(1)


def _release(path: Path, text: str) -> None:
    with suppress(OSError):  # a lock that cannot be removed is stale when this process has ended
        seen = _look(path)
        if seen and seen.text == text:
            path.unlink()


def _started(pid: int) -> float | None:
    """When a process began; None if it is dead."""
    try:
        if sys.platform != "linux":
            return psutil.Process(pid).create_time()
        # Ticks since boot, independent of the clock's setting. A zombie is dead; its parent has not noticed yet.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else float(fields[18])
    except (OSError, psutil.NoSuchProcess):
        return None


def _look(path: Path) -> Seen | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # opening the file makes NFS ask its server
            status = os.fstat(file.fileno())
            return Seen(file.read(), status.st_ino, status.st_mtime_ns)
    except FileNotFoundError:
        return None
