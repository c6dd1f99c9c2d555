"""A process that stops, dies or hangs ends the job, with its rank, host, process id and position in the code.

Without this, the others wait in a collective until its timeout, whose message names no process. Several times within
the timeout, each process reports through torch.distributed's store that it lives and where its main thread is. Time is
counted in these beats, so that a job that was suspended as a whole blames no process.

A process that ends with an error reports that too, and the others end with it, whatever they wait for."""

import atexit
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from hftrain.config.errors import innermost

SAVES = "hftrain save"  # the name of the thread that writes a checkpoint
PATIENCE = 20.0  # seconds for a save to end: launchers kill the other processes 30 seconds after the first
_moves = 0  # a counter of the main thread's progress, to distinguish long steps from a hang
_watch: "Watch | None" = None


def moved() -> None:
    """Counts progress; called where the processes meet in each step."""
    global _moves
    _moves += 1


def beat_seconds(timeout: float) -> float:
    return min(5.0, timeout / 10)


def watch_over(rank: int, processes: int, timeout: float) -> None:
    """Starts to watch, once in a process; `timeout` in seconds of silence, or of all processes standing still."""
    global _watch
    if _watch is None and processes > 1:
        _watch = Watch(rank, processes, timeout)


class Watch:
    """The reports of all processes, exchanged by this one."""

    def __init__(self, rank: int, processes: int, timeout: float):
        from torch.distributed.distributed_c10d import _get_default_store

        store: Any = _get_default_store()
        self.rank, self.timeout, self.seconds = rank, timeout, beat_seconds(timeout)
        # a separate connection: the main thread's may be blocked
        self.store = torch.distributed.PrefixStore("hftrain-watch", store.clone())
        self.store_seconds = max(10.0, self.seconds)
        self.store.set_timeout(timedelta(seconds=self.store_seconds))
        self.main, self.left = threading.main_thread(), threading.Event()
        self.stack: tuple = ()
        self.still = self.beats = 0  # beats in which the main thread has not advanced
        self.heard: list[dict[str, Any]] = [{"rank": other} for other in range(processes)]
        self.silent = [0] * processes  # beats since the last report of each process
        self.ending: dict[str, bool] = {}  # "failed" with an error, or "knows" of another's
        self._tell()
        atexit.register(self._leave)
        self.hook, sys.excepthook = sys.excepthook, self._explain
        works = (self._exchange, self._judge)  # two threads: the first may hang in the network
        self.threads = [
            threading.Thread(target=work, daemon=True, name=f"hftrain watch {work.__name__}") for work in works
        ]
        for thread in self.threads:
            thread.start()

    def _tell(self, **more: Any) -> None:
        self.beats += 1
        stack = [frame for frame in self.stack if "importlib" not in frame[0].co_filename]
        place = [f"{os.path.basename(code.co_filename)}:{line} {code.co_name}" for code, line, _ in stack[:3]]
        me = {"host": platform.node(), "pid": os.getpid(), "beat": self.beats, "still": self.still, "at": place}
        me |= self.ending
        self.store.set(str(self.rank), json.dumps({"rank": self.rank, **me, **more}))

    def _leave(self) -> None:
        self.left.set()
        for thread in self.threads:  # Python would end a thread inside the store in a way that aborts the program
            thread.join(self.store_seconds)
        with suppress(RuntimeError):  # the process with the store ended before us
            self._tell(left=True)

    def _exchange(self) -> None:
        keys = [str(other) for other in range(len(self.heard))]
        while not self.left.wait(self.seconds):
            try:
                self._tell()
                values = [json.loads(value) for value in self.store.multi_get(keys)]
            except RuntimeError:  # the process with the store does not answer: `_judge` notices it
                continue
            for other, value in enumerate(values):
                if value != self.heard[other]:
                    self.heard[other], self.silent[other] = value, 0
            if failed := [value for value in self.heard if value.get("failed")]:
                self._follow(failed[0])

    def _judge(self) -> None:
        while not self.left.wait(self.seconds):
            frame = sys._current_frames().get(self.main.ident or 0)
            stack: list = []
            while frame:
                stack.append((frame.f_code, frame.f_lineno, (frame.f_lasti, _moves)))
                frame = frame.f_back
            self.still = self.still + 1 if tuple(stack) == self.stack else 0
            self.stack = tuple(stack)
            self.silent = [beats + 1 for beats in self.silent]
            if verdict := self.verdict(self.timeout):
                os.write(2, f"\nhftrain: {verdict}\nRank {self.rank} ends the job.\n".encode())
                os._exit(1)  # the main thread hangs, so no exception would reach it

    def verdict(self, timeout: float) -> str | None:
        """A message on the process that has been stuck for `timeout` seconds; None if all work."""
        there = [value for value in self.heard if not value.get("left")]
        silent = [value for value in there if self.silent[value["rank"]] * self.seconds > timeout]
        first = min((value["rank"] for value in there if value not in silent), default=self.rank)
        patience = timeout + (2 * self.seconds if self.rank > first else 0)  # the first process reports, if it can
        if self.silent[self.rank] * self.seconds > patience:  # not even our own reports arrive
            return f"the store that rank 0 or its launcher keeps has not answered for {timeout:g} s\n" + _list(
                there[:1]
            )
        if any(self.silent[value["rank"]] * self.seconds > patience for value in silent):
            return f"no report for {timeout:g} s: stopped, killed, or its machine is unreachable\n" + _list(silent)
        if there and all(value.get("still", 0) * self.seconds > patience for value in there):
            return f"no process has advanced for {timeout:g} s (ddp_timeout)\n" + _list(there)
        return None

    def _follow(self, failed: dict[str, Any]) -> None:
        """Ends this process after another has failed, unless it ends by itself: its main thread may wait for that one
        in a collective. A save has time to end."""
        if self.ending:
            return
        self.ending = {"knows": True}
        with suppress(RuntimeError):
            self._tell()
        began = time.monotonic()
        while not self.left.wait(2.0):
            busy = any(thread.name == SAVES for thread in threading.enumerate()) or not self._has_left(failed["rank"])
            if not busy or time.monotonic() - began > PATIENCE:
                who = f"rank {failed['rank']} (host {failed['host']}, pid {failed['pid']})"
                os.write(2, f"hftrain: rank {self.rank} ends, since {who} ended with an error\n".encode())
                os._exit(1)

    def _has_left(self, rank: int) -> bool:
        """Whether another process is at its end: launchers report the first one that ends."""
        if rank == 0:  # with the store, soon after we knew
            return True
        try:
            return "left" in json.loads(self.store.get(str(rank)))
        except RuntimeError:  # with the store
            return True

    def _fail(self) -> None:
        """Tells the others that this process ends with an error, and waits until they know. Rank 0 keeps the store, so
        it ends after those that still ask it: torch would print where they were in C++."""
        if self.ending:
            return
        self.ending = {"failed": True}
        keys = [str(other) for other in range(len(self.heard)) if other != self.rank]
        enough = {"knows", "left"} if self.rank == 0 else {"failed", "knows", "left"}
        deadline = time.monotonic() + 3 * self.seconds
        with suppress(RuntimeError):
            self._tell()
            while time.monotonic() < deadline:
                values = [json.loads(value) for value in self.store.multi_get(keys)]
                if all(value.keys() & enough for value in values):
                    break
                time.sleep(0.05)
            self.ending["left"] = True
            self._tell()

    def _explain(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Reports which process is gone when a connection breaks; living processes report within two beats."""
        in_torch = Path(torch.__file__).resolve().parent in innermost(trace)[0].parents
        if in_torch and "knows" in self.ending:  # of a process that failed, whose error says more
            self.left.wait(PATIENCE)
            return
        if in_torch and "by peer" in str(error) and not os.environ.get("HFTRAIN_TRACEBACK"):
            cause = f"another process, or its connection, is gone: {str(error).splitlines()[0]}"
            os.write(2, f"hftrain: rank {self.rank} ends: {cause}\n".encode())
        else:
            self.hook(kind, error, trace)
        words = ("gloo", "nccl", "connection", "timed out")
        if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words):
            self.left.wait(4 * self.seconds)
            verdict = self.verdict(2.5 * self.seconds)
            os.write(2, f"\nhftrain: {verdict or 'all processes still report'}\n".encode())
        self._fail()


def _list(processes: Iterable[dict[str, Any]]) -> str:
    """A line for each position of processes, the rarest first: it is probably the cause."""
    places: dict[str, list[str]] = {}
    for process in processes:
        name = f"rank {process['rank']} (host {process.get('host', '?')}, pid {process.get('pid', '?')})"
        places.setdefault(" < ".join(process.get("at", [])), []).append(name)
    rarest = sorted(places.items(), key=lambda place: len(place[1]))
    return "\n".join(f"  {', '.join(names)}, last at {place or 'its start'}" for place, names in rarest)
