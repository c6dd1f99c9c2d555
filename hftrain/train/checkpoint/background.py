"""Saves in another thread, while training continues."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import psutil
import torch

from hftrain.distributed import OtherThreads, Piece, moved
from hftrain.distributed.watch import PATIENCE, SAVES
from hftrain.train.checkpoint.runs import GB
from hftrain.train.checkpoint.writing import Result

NAP = 0.05  # seconds between two looks at the thread


class SaveAbandonedError(BaseException):
    """The run ends at once, and with it the save: the next run removes what it left."""


class Background:
    """One save at a time in another thread. Every process must call `start` and `finish` at the same steps."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._exchange: OtherThreads | None = None
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._copies: dict[str, torch.Tensor] = {}
        self._beats = 0
        self._abandoned = False

    @torch.no_grad()
    def copy(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Copies of pieces in the memory of the CPU, for `start`. The next call overwrites them: new memory would take
        five times as long as the copying."""
        assert self._thread is None, "the copies are being written"
        copies = []
        for name, shape, start, values in pieces:
            mine = self._copies.get(name)
            if mine is None or (mine.shape, mine.dtype) != (values.shape, values.dtype):
                pinned = values.device.type != "cpu"
                mine = self._copies[name] = torch.empty(values.shape, dtype=values.dtype, pin_memory=pinned)
            copies.append(Piece(name, shape, start, mine.copy_(values, non_blocking=True)))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return copies

    def start(self, write: Callable[..., Result], *arguments: Any, **options: Any) -> None:
        """Calls `write` in a thread, with its `exchange` and `pulse`. There must be no other save."""
        assert self._thread is None, "a second save at once"
        self._exchange = self._exchange or OtherThreads(self._pulse)
        options |= {"exchange": self._exchange, "pulse": self._pulse}

        def work() -> None:
            try:
                self._result = write(*arguments, **options)
            except torch.distributed.DistError as error:  # the store is gone with the launcher or the main process
                lost = "the processes lost each other while a checkpoint was written, so it was perhaps not saved"
                self._result = Result(None, [f"{lost}: {str(error).splitlines()[0]}. Older checkpoints are intact."])
            except BaseException as error:  # raised in the main thread
                self._error = error

        self._thread = threading.Thread(target=work, daemon=True, name=SAVES)
        self._thread.start()

    @property
    def writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def look(self) -> None:
        """Warns of what went wrong in a save that has ended; does not wait."""
        if self._thread is not None and not self._thread.is_alive():
            if self._error is not None:
                raise self._error
            if self._result is not None:
                self._result.warn()
                self._result = self._result._replace(warnings=[])

    def finish(self) -> Result | None:
        """Waits for the end of the save; returns None without one. Raises what the save raised."""
        if self._thread is None:
            return None
        seen = self._beats
        while self._thread.is_alive():
            self._thread.join(NAP)
            if self._beats != seen:
                seen = self._beats
                moved()
        self.look()
        result, self._result, self._thread = self._result, None, None
        return result

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """At the end of a run: a save may still complete after an error, but not after a second Ctrl-C."""
        if self._thread is not None:
            if kind is None or issubclass(kind, Exception):
                self._thread.join(PATIENCE)
            self._abandoned = True
            self._thread.join(PATIENCE)

    def _pulse(self) -> None:
        self._beats += 1
        if self._abandoned:
            raise SaveAbandonedError


def memory_lacks(needed_bytes: int) -> str | None:
    """Why copies of so many bytes, of all processes of this machine, should not be made; None if half of the free
    memory is left."""
    free = psutil.virtual_memory().available
    if needed_bytes <= free / 2:
        return None
    return f"a copy would need {needed_bytes / GB:.1f} of {free / GB:.1f} GB of free memory, more than half"
