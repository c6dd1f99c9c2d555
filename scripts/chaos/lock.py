"""Kills between any two lines of the lock, and many runs that meet at a dead one."""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from hftrain.checkpoint import locking

Row = tuple[str, bool, bool, str]
SCENES = ("new folder", "dead lock", "empty lock", "dead lock, dead successor", "released")
DEAD = {"host": "x", "pid": 2**22 + 1, "started": 1.0, "since": "long ago", "slurm_job": ["", ""], "slurm_restarts": 0}


def rows() -> Iterator[Row]:
    """Every kill, and twenty races of eight runs."""
    locking.BEAT_SECONDS = 0.02
    with tempfile.TemporaryDirectory() as folder:
        yield from kills(Path(folder) / "kills", every=1)
        yield from races(Path(folder) / "races", rounds=20, runs=8)


def kills(place: Path, *, every: int) -> Iterator[Row]:
    """Kills a run at each `every`th line of locking.py that it comes to; then another run has to get the lock."""
    for scene in SCENES:
        for line in range(1, 10_000, every):
            folder = place / f"{scene}-{line}"
            prepare(folder, scene)
            died = forked(lambda folder=folder, line=line: _with_a_kill(folder, line)) == -signal.SIGKILL
            began = time.monotonic()
            code = forked(lambda folder=folder: _come_and_go(folder))
            seconds = time.monotonic() - began
            left = sorted(path.name for path in folder.iterdir())
            detail = f"exit code {code}, {seconds:.1f} s, left {left}"
            yield f"lock: {scene}, kill at line {line}", died, code == 0 and left == [] and seconds < 5, detail
            if not died:
                break


def races(place: Path, *, rounds: int, runs: int) -> Iterator[Row]:
    """`runs` processes meet at a dead lock; each that gets it notes when it came and went."""
    for number in range(rounds):
        folder = place / f"race-{number}"
        prepare(folder, SCENES[1 + number % 3])
        log = place / f"race-{number}.log"
        start = time.monotonic() + 0.2
        children = [fork(lambda folder=folder, start=start, log=log: _race(folder, start, log)) for _ in range(runs)]
        codes = [wait(child) for child in children]
        stays = sorted(map(json.loads, log.read_text().splitlines())) if log.exists() else []
        apart = all(before[1] <= after[0] for before, after in pairwise(stays))
        refused = codes.count(2)
        passed = apart and codes.count(0) == len(stays) >= 1 and refused + len(stays) == runs
        yield f"lock: race {number}", True, passed, f"{len(stays)} had it, {refused} were refused, codes {codes}"


def prepare(folder: Path, scene: str) -> None:
    folder.mkdir(parents=True)
    dead = json.dumps(DEAD | {"machine": locking._machine(), "key": "1"})
    if scene == "empty lock":
        (folder / ".lock").touch()
    elif scene.startswith("dead lock"):
        (folder / ".lock").write_text(dead)
    if scene.endswith("dead successor"):
        key = locking.Seen(dead, 0, 0).key
        (folder / f".lock-after-{key}").write_text(json.dumps(DEAD | {"machine": locking._machine(), "key": "2"}))


def _come_and_go(folder: Path) -> None:
    with locking.lock(folder):
        pass


def _with_a_kill(folder: Path, line: int) -> None:
    here = locking.__file__
    left = line

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != here:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    _come_and_go(folder)
    sys.settrace(None)


def _race(folder: Path, start: float, log: Path) -> None:
    time.sleep(max(0.0, start - time.monotonic()))
    try:
        with locking.lock(folder):
            came = time.monotonic()
            time.sleep(0.05)
            with open(log, "a") as file:
                file.write(json.dumps([came, time.monotonic()]) + "\n")
    except ValueError:
        os._exit(2)


def fork(work: Callable[[], None]) -> int:
    """A child that does `work` quietly: exit code 0, or 1 after an exception."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forked(work: Callable[[], None]) -> int:
    return wait(fork(work))
