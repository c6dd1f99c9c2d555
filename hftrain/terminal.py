"""What a program shows: text from data (rows, names of classes, columns and files) in a form that is safe to display,
and of libraries only what is meant for the user.

An escape sequence could move the terminal's cursor, hide text or set the window's title; a direction mark could change
the order of text on a page. All text for a terminal, a log or a page passes through here.
"""

import json
import logging
import os
import re
import sys
import warnings
from typing import Any, TextIO

CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069]")


def visible(text: str) -> str:
    """`text` with its control characters spelt out, as in a Python string; tabs and line breaks stay."""
    return CONTROLS.sub(lambda match: repr(match.group())[1:-1], text.replace("\r\n", "\n"))


def visible_json(value: object, **how: Any) -> str:
    """`value` as JSON with control characters spelt out; reading it gives the same value."""
    text = json.dumps(value, ensure_ascii=False, **how)
    return re.sub(f"(?!\n){CONTROLS.pattern}", lambda match: f"\\u{ord(match.group()):04x}", text)


def print_all(text: str, file: TextIO | None = None) -> None:
    """Prints `text` to `file`, by default standard output. A reader that has left, as in `| head -1`, is no error."""
    file = file or sys.stdout
    try:
        print(text, end="", file=file, flush=True)
    except BrokenPipeError:
        write_no_more(file)


def write_no_more(file: TextIO) -> None:
    """What is written to `file` from now on is lost; otherwise Python would fail when it flushes the buffer at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


class Visible(logging.Formatter):
    """Formats log messages without prefix, made visible."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def clean_messages() -> None:
    """From now on this program's log messages and warnings are visible. Called where a program begins."""
    if logging.lastResort:  # the handler of programs without logging setup
        logging.lastResort.setFormatter(Visible())
    plain = warnings.formatwarning
    if not hasattr(plain, "visible"):

        def format_warning(*arguments: Any, **named: Any) -> str:
            return visible(plain(*arguments, **named))

        format_warning.visible = True  # type: ignore[attr-defined]
        warnings.formatwarning = format_warning


def hush_libraries() -> None:
    """Silences messages of libraries to developers, which would hide those to the user. Called at the start of our
    programs, never by a library. Errors are still shown."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it for any adapter
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one bar for each loaded model
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"(torch|transformers|peft|accelerate|deepspeed)\b"
    )
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # Accelerate imports DeepSpeed where it is installed
