"""What `scripts/chaos.py` breaks: each module has `ROWS`, a list of (title, function).

A function takes an empty folder, its own `random.Random`, and whether a sample of its tries will do; it yields a `Try`
for each thing that it breaks.
"""

import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Try(NamedTuple):
    """One thing that was broken."""

    name: str
    happened: bool  # whether it really was: a kill may come when the process has ended
    problem: str | None  # what is not as promised


Row = tuple[str, Callable[[Path, random.Random, bool], Iterator[Try]]]

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CALLS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate"}


def check(promise: Callable[[], object]) -> str | None:
    """What is not as promised, by an exception that `promise` raises."""
    try:
        promise()
    except Exception:
        return " ".join(traceback.format_exc(limit=-1).split())
    return None


def forked(work: Callable[[], object], kill_at: int | None) -> tuple[bool, int]:
    """Runs `work` in a fork that kills itself (SIGKILL) at its call number `kill_at` that changes the disk.

    Counted are the opening of a file to write, renaming, deleting, making folders, and fsync.

    Returns:
        whether it was killed, and how many such calls it made.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            count_calls(writer, kill_at)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        calls = len(pipe.read())
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("the fork failed by itself")
    return os.WIFSIGNALED(status), calls


def count_calls(pipe: int, kill_at: int | None) -> None:
    """In this process from now on: a byte into `pipe` for each call that changes the disk; SIGKILL before `kill_at`."""
    calls = 0
    fsync = os.fsync

    def count() -> None:
        nonlocal calls
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        os.write(pipe, b".")

    def hook(event: str, arguments: tuple) -> None:
        opened_to_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if event in CALLS or opened_to_write:
            count()

    def counted_fsync(descriptor: int) -> None:
        count()
        fsync(descriptor)

    os.fsync = counted_fsync
    sys.addaudithook(hook)
