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

MODULES = ("saves", "lock", "damage", "inputs", "disk", "signals", "planted")  # in the order of the table


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


def fork(work: Callable[[], object]) -> int:
    """The process id of a child that does `work`, and prints nothing but errors: exit code 0, or 1 after one."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def wait(child: int) -> int:
    """Its exit code; -N if signal N ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(work: Callable[[], object], at: int | None) -> tuple[bool, int]:
    """Runs `work` in a fork that kills itself (SIGKILL) at its call number `at` that changes the disk.

    Counted are the opening of a file to write, renaming, deleting, making folders, and fsync.

    Returns:
        whether it was killed, and how many such calls it made.
    """
    reader, writer = os.pipe()

    def counted() -> None:
        os.close(reader)
        count_calls(writer, at)
        work()

    child = fork(counted)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        calls = len(pipe.read())
    code = wait(child)
    if code > 0:
        raise RuntimeError("the fork failed by itself")
    return code == -signal.SIGKILL, calls


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
