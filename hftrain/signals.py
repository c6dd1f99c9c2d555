"""SIGTERM, SIGUSR1, SIGINT and SIGHUP ask a run to stop: it ends with code 75 and a message on what is saved.

| phase | the first signal |
|---|---|
| a recipe's program, before and after the loop | the program ends at once; more signals change nothing |
| the loop: a step | the step ends, then all processes save and end together |
| the loop: an evaluation | it stops between two batches, then all processes save; the resumed run repeats it |
| the loop: a save | it completes, and the next step is the last |

In the loop a second SIGINT, over a second later, ends the program at once; other signals change nothing more. A signal
that was ignored when the program began (`nohup`, a shell's background job) stays ignored.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
PATIENCE = 5.0  # seconds for the main thread to notice a signal that should end the program at once

_loop: "StopSignals | None" = None  # the active one
_noted: list[int] = []  # signals handled by a loop, until the watch of the program has seen them too
_saved = "before the first step: nothing new is saved. The same command starts the run again"


class EvaluationStopped(BaseException):
    """An evaluation was stopped, on all processes, since the run should stop."""


class StopSignals:
    """Within this context, signals only set `received`; a second SIGINT after more than a second stops at once.

    (Within a second it counts as the same one: a terminal sends Ctrl-C to the launcher's whole group, and torchrun
    forwards it.) Threads other than the main one cannot handle signals: there nothing changes.
    """

    def __init__(self) -> None:
        self.received: int = 0
        self.evaluating = False
        self._interrupted = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        global _loop
        _loop = self
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _heeded()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _loop
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        _loop = None

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Within this context, `asked_in_evaluation` returns the received signal."""
        self.evaluating = True
        try:
            yield
        finally:
            self.evaluating = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        _noted.append(number)
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._interrupted and now - self._interrupted > 1.0:
                raise KeyboardInterrupt
            self._interrupted = self._interrupted or now
        if not self.received:
            what = "this batch" if self.evaluating else "this step"
            # not print: the signal may have interrupted a print, which is not reentrant
            os.write(2, f"{signal.Signals(number).name}: stopping after {what}\n".encode())
        self.received = number


def asked_in_evaluation() -> int | None:
    """The signal that this process has received, 0 for none; None outside of an evaluation by the loop.

    Whether it is None is the same on every process.
    """
    return _loop.received if _loop and _loop.evaluating else None


def now_saved(text: str) -> None:
    """Sets the message of a signal that ends the program from now on: what is saved and how to continue."""
    global _saved
    _saved = text


def end_program_when_asked() -> None:
    """From now on the signals end this program at once with code 75; inside `StopSignals` they wait for the step.

    For a recipe's program, which calls it once, in its main thread.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    leaving = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        for other in _heeded():
            signal.signal(other, signal.SIG_IGN)
        leaving.set()
        _say_farewell(number)
        sys.exit(EXIT_INTERRUPTED)

    def watch() -> None:
        """Python runs `leave` between two of its own instructions, which a long library call delays."""
        while number := os.read(reader, 1):
            if number[0] in _noted:  # the loop that handled it may have ended by now
                _noted.remove(number[0])
            elif number[0] in STOPPING and _loop is None:
                if not leaving.wait(PATIENCE):
                    if _loop is not None:
                        continue
                    _say_farewell(number[0])
                    os._exit(EXIT_INTERRUPTED)
                time.sleep(4 * PATIENCE)  # time for cleaning up
                os._exit(EXIT_INTERRUPTED)

    def forget() -> None:
        """A forked worker does not belong to the program and must not handle its signals."""
        signal.set_wakeup_fd(-1)
        for number in numbers if _loop is None else ():
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    numbers = _heeded()
    for number in numbers:
        signal.signal(number, leave)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=forget)
    threading.Thread(target=watch, daemon=True, name="hftrain signals").start()


def relay(programs: Callable[[], list[int]]) -> set[int]:
    """From now on, signals are forwarded to the processes with the ids of `programs`; without any, this one ends.

    Returns:
        The signals that were sent, for `exit_code`.
    """
    sent: set[int] = set()

    def pass_on(number: int, frame: FrameType | None) -> None:
        pids = programs()
        if not pids:
            _say_farewell(number)
            sys.exit(EXIT_INTERRUPTED)
        for pid in pids:
            # One that still imports would die of SIGUSR1 too, and of SIGINT with a traceback. SIGHUP is a terminal that
            # was closed: to save and stop.
            passed = number if number != signal.SIGHUP and _catches_signals(pid) else signal.SIGTERM
            sent.add(passed)
            with suppress(ProcessLookupError):
                os.kill(pid, passed)

    for number in _heeded():
        signal.signal(number, pass_on)
    return sent


def exit_code(code: int, sent: set[int]) -> int:
    """The exit code of a launcher whose program ended with `code` (as in `subprocess`) after the signals `sent`."""
    if -code in sent:  # the program was not ready to handle it
        _say_farewell(-code)
        return EXIT_INTERRUPTED
    return code if code >= 0 else 128 - code


def _catches_signals(pid: int) -> bool:
    """Whether a program of ours already handles signals."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return bool(int(fields["SigCgt"], 16) >> (signal.SIGUSR1 - 1) & 1)
    except (OSError, KeyError):
        return True


def _heeded() -> list[signal.Signals]:
    return [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]


def _say_farewell(number: int) -> None:
    os.write(2, f"{signal.Signals(number).name}: stopped {_saved}\n".encode())
