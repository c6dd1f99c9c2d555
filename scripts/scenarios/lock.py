"""Kills between any two lines of the lock, and many runs that meet at a dead one."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from hftrain.train.checkpoint import locking
from scenarios import Row, Try, fork, wait

SCENES = ("new folder", "dead lock", "empty lock", "dead lock, dead successor", "released")
DEAD = {"host": "x", "pid": 2**22 + 1, "started": 1.0, "since": "long ago", "slurm_job": ["", ""], "slurm_restarts": 0}
BEAT_SECONDS = 0.02  # of the lock, in the forks
REFUSED = 2


def kills(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    """Kills a run at every third line of locking.py that it comes to; then another run has to get the lock."""
    every = 30 if sample else 3
    for scene in SCENES:
        for line in range(draw.randint(1, every), 10_000, every):
            place = folder / f"{scene}-{line}"
            prepare(place, scene)
            died = wait(fork(lambda place=place, line=line: _with_a_kill(place, line))) == -signal.SIGKILL
            began = time.monotonic()
            code = wait(fork(lambda place=place: _come_and_go(place)))
            seconds = time.monotonic() - began
            left = sorted(path.name for path in place.iterdir())
            passed = code == 0 and left == [] and seconds < 5
            problem = None if passed else f"exit code {code}, {seconds:.1f} s, left {left}"
            if not died and passed:
                break  # the run had no such line
            yield Try(f"{scene}, kill at line {line}", died, problem)


def races(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    """Eight processes meet at a dead lock; each that gets it notes when it came and went."""
    runs = 8
    for number in range(3 if sample else 20):
        place = folder / f"race-{number}"
        prepare(place, SCENES[1 + number % 3])
        log = folder / f"race-{number}.log"
        start = time.monotonic() + 0.2
        children = [fork(lambda place=place, start=start, log=log: _race(place, start, log)) for _ in range(runs)]
        codes = [wait(child) for child in children]
        stays = sorted(map(json.loads, log.read_text().splitlines())) if log.exists() else []
        apart = all(before[1] <= after[0] for before, after in pairwise(stays))
        passed = apart and codes.count(0) == len(stays) >= 1 and codes.count(REFUSED) + len(stays) == runs
        yield Try(f"race {number}", True, None if passed else f"{stays}, exit codes {codes}")


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
    locking.BEAT_SECONDS = BEAT_SECONDS
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
    locking.BEAT_SECONDS = BEAT_SECONDS
    time.sleep(max(0.0, start - time.monotonic()))
    try:
        with locking.lock(folder):
            came = time.monotonic()
            time.sleep(0.05)
            with open(log, "a") as file:
                file.write(json.dumps([came, time.monotonic()]) + "\n")
    except ValueError:
        os._exit(REFUSED)


ROWS: list[Row] = [
    ("kill -9 at every third line of the lock, in five situations: the next run gets it, nothing is left", kills),
    ("eight runs at once at a dead lock: never two owners", races),
]
