"""SIGTERM, SIGUSR1 and SIGINT ask a run to stop; it does so at a step's end, where all processes can agree."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: saved, try again
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """Inside, the signals only set `received`; a second SIGINT more than a second after the first stops at once.

    (Within a second it is the same one: a terminal sends Ctrl-C to the launcher's whole group, and torchrun passes it
    on.) Threads other than the main one cannot handle signals: there nothing is changed.
    """

    def __init__(self) -> None:
        self.received: int = 0
        self._interrupted = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOPPING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._interrupted and now - self._interrupted > 1.0:
                raise KeyboardInterrupt
            self._interrupted = self._interrupted or now
        if not self.received:
            # not print: the signal may have come in the middle of one, which cannot be entered again
            os.write(2, f"{signal.Signals(number).name}: stopping after this step\n".encode())
        self.received = number
