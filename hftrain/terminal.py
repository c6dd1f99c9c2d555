"""Text that comes with data (rows, names of classes, columns and files) as people may see it.

An escape sequence in it would move the terminal's cursor, hide what stands there or set the window's title; a mark of
direction would make a page show it in another order. Whatever leaves for a terminal, a log or a page goes through here.
"""

import json
import logging
import re
import warnings
from typing import Any

CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069]")


def visible(text: str) -> str:
    """`text` with its control characters spelt out, as in a Python string; tabs and line ends stay."""
    return CONTROLS.sub(lambda found: repr(found.group())[1:-1], text.replace("\r\n", "\n"))


def visible_json(value: object, **how: Any) -> str:
    """`value` as JSON in which control characters are spelt out; it is read back as it was."""
    text = json.dumps(value, ensure_ascii=False, **how)
    return re.sub(f"(?!\n){CONTROLS.pattern}", lambda found: f"\\u{ord(found.group()):04x}", text)


class Visible(logging.Formatter):
    """Log messages by themselves, visible."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def clean_messages() -> None:
    """From now on this program's log messages and warnings are visible. Called where a program begins."""
    if logging.lastResort:  # the handler of whoever has set up none
        logging.lastResort.setFormatter(Visible())
    plain = warnings.formatwarning
    if not hasattr(plain, "visible"):

        def format_warning(*arguments: Any, **named: Any) -> str:
            return visible(plain(*arguments, **named))

        format_warning.visible = True  # type: ignore[attr-defined]
        warnings.formatwarning = format_warning
