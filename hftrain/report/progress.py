"""The display of a running loop: a live bar on a terminal, one plain line per logging step elsewhere."""

import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hftrain.report.formats import format_bytes, format_duration, format_number
from hftrain.terminal import visible, write_no_more

LABELS = {"learning_rate": "lr", "grad_norm": "grad norm"}
SECONDS_BETWEEN_DRAWINGS = 0.2


class Progress:
    """Shows the state of a run: step, loss, learning rate, gradient norm, tokens/s, memory, time left.

        with Progress(total=1000, start=200, enabled=accelerator.is_main_process) as progress:
            progress.update(201, {"loss": 2.31})
            progress.log({"loss": 2.31, "learning_rate": 3e-4})
            with progress.phase("evaluating"):
                ...

    Call `update` at every step (it costs a microsecond if nothing is drawn) and `log` at every logging step.
    Without a terminal (or with TERM=dumb) `log`, `phase` and `print` write plain lines without control characters,
    and `update` writes nothing.

    Args:
        total: steps of the whole run.
        start: steps done before this process began; the estimate of the time left ignores them.
        enabled: False shows nothing, for processes other than the main one.
        counted: the unit of the value tokens_per_second.
        file: where to write, by default `sys.stdout`.
    """

    def __init__(
        self, total: int, start: int = 0, *, enabled: bool = True, counted: str = "tokens", file: TextIO | None = None
    ) -> None:
        self.total, self.step, self.enabled, self.counted = total, start, enabled, counted
        self._file = file or sys.stdout
        self._values: dict[str, Any] = {}
        self._phase = "training"
        self._began = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._drawn = 0.0
        self._live: Live | None = None
        if enabled and self._file.isatty() and os.environ.get("TERM") != "dumb":
            # The steps draw it, not a thread: a thread with a lock would hang a data worker that is forked meanwhile.
            self._live = Live(
                console=Console(file=self._file, highlight=False),
                auto_refresh=False,
                get_renderable=self._render,
                redirect_stderr=sys.stderr.isatty(),
            )

    def __enter__(self) -> "Progress":
        self._began = time.monotonic()
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._draw()
        if self._live:
            with self._until_unreadable():
                self._live.stop()

    def update(self, step: int, values: Mapping[str, Any] | None = None) -> None:
        """`step` steps are done; `values` (plain numbers) replace those shown under the same names."""
        if not self.enabled:
            return
        self.step = step
        now = time.monotonic()
        # The first step takes longer than the others (compilation, caches): the estimate starts after it.
        self._first = self._first or (step, now)
        if values:
            self._values.update(values)
        if self._live and now - self._drawn > SECONDS_BETWEEN_DRAWINGS:
            self._draw()

    def log(self, values: Mapping[str, Any]) -> None:
        """A permanent line. On a terminal only for evaluations (`eval_*`): the bar shows the rest."""
        if not self.enabled:
            return
        evaluated = any(name.startswith("eval_") for name in values)
        if not evaluated:
            self._values.update(values)
        if self._live and not evaluated:
            self._draw()
        else:
            extra = [] if evaluated else [_memory(), f"eta {self._time_left()}"]
            self.print(
                "  ".join([self._position(), *(f"{shown:<16}" for shown in self._shown(values)), *extra]).rstrip()
            )

    def print(self, text: str, wrap: bool = True) -> None:
        """A note above the bar; control characters, and letters that the terminal cannot encode, are spelt out.

        wrap: break long lines between words; False for text that users paste."""
        if not self.enabled:
            return
        text = visible(text)
        encoding = self._file.encoding or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        if self._live:
            with self._until_unreadable():
                self._live.console.print(Text(text), soft_wrap=not wrap)
        elif not say(text, self._file):
            self.enabled = False

    @contextmanager
    def _until_unreadable(self) -> Iterator[None]:
        """A closed terminal ends the display, not the run."""
        try:
            yield
        except OSError:
            self._live, self.enabled = None, False
            _silence(self._file)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show that the run is `name` ("evaluating", "saving")."""
        before, self._phase = self._phase, name
        if self._live:
            self._draw()
        else:
            self.print(f"{self._position()}  {name}")
        try:
            yield
        finally:
            self._phase = before
            if self._live:
                self._draw()

    def _position(self) -> str:
        return f"step {self.step:>{len(f'{self.total:,}')},}/{self.total:,}"

    def _time_left(self) -> str:
        if self.step >= self.total:
            return "0 s"
        if self._first is None or self.step == self._first[0]:
            return "?"
        seconds_per_step = (time.monotonic() - self._first[1]) / (self.step - self._first[0])
        return format_duration(seconds_per_step * (self.total - self.step))

    def _draw(self) -> None:
        assert self._live is not None
        with self._until_unreadable():
            self._live.refresh()
        self._drawn = time.monotonic()

    def _render(self) -> RenderableType:
        elapsed = format_duration(time.monotonic() - self._began)
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True)
        head.add_column(no_wrap=True)
        head.add_row(
            Text(self._phase, style="bold"),
            ProgressBar(total=self.total, completed=self.step),
            Text(f"{self.step:,}/{self.total:,}"),
            Text(f"{elapsed}, eta {self._time_left()}", style="dim"),
        )
        return Group(head, Text("   ".join([*self._shown(self._values), _memory()]), no_wrap=True, overflow="ellipsis"))

    def _shown(self, values: Mapping[str, Any]) -> list[str]:
        shown = []
        for name, value in values.items():
            if name == "tokens_per_second":
                shown.append(f"{value:,.0f} {self.counted}/s")
            elif name not in ("step", "epoch", "seconds"):
                shown.append(visible(f"{LABELS.get(name, name)} {format_number(value)}"))
        return shown


def say(text: str, file: TextIO | None = None) -> bool:
    """Prints to `file`, by default `sys.stdout`. Returns False on failure, and then never writes to it again.

    A closed pager, a lost connection or a full disk does not end a run."""
    file = file or sys.stdout
    try:
        print(text, file=file, flush=True)
    except OSError as error:
        _silence(file)
        if not isinstance(error, BrokenPipeError):
            warnings.warn(f"the output can no longer be written ({error}): the run continues without it", stacklevel=2)
        return False
    return True


def _silence(file: TextIO) -> None:
    if file is sys.stdout:
        write_no_more(file)


def _memory() -> str:
    """Peak memory of tensors on the GPU, and what PyTorch reserved for them; without a GPU that of the process."""
    torch = sys.modules.get("torch")  # a process that has not loaded torch has nothing on a GPU
    if torch and torch.cuda.is_available():
        peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return f"GPU {format_bytes(peak)}, reserved {format_bytes(reserved)}"
    import psutil

    return f"RAM {format_bytes(psutil.Process().memory_info().rss)}"
