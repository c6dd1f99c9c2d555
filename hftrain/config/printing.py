"""`--print_config`: all settings as YAML, with reasons for those that were or will be chosen.

Open settings depend on the data and the model, so the recipe runs until they are chosen; its output goes to stderr. If
it fails, the settings are printed with the open ones null and the rule that will choose them.
"""

import os
import re
import sys
from types import TracebackType
from typing import Any, NoReturn

from hftrain.config.defaults import RULES, open_settings
from hftrain.config.fields import TrainConfig
from hftrain.config.schema import Config
from hftrain.config.yaml12 import to_yaml
from hftrain.terminal import print_all

_OUTPUT: list[Any] = []  # the stream for the settings, once they are requested


def requested() -> bool:
    """Whether the program should print its settings and end, as soon as all are chosen."""
    return bool(_OUTPUT)


def ask(config: Config) -> None:
    """From now on, the program prints its settings as soon as they are chosen, or otherwise when it ends."""
    _OUTPUT.append(sys.stdout)
    sys.stdout = sys.stderr

    def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.exit(130)
        print(f"settings that are null cannot be chosen yet: {error}", file=sys.stderr)
        show(config)

    sys.excepthook = explain


def show(config: Config) -> NoReturn:
    """Prints the settings and ends the program."""
    if os.environ.get("RANK", "0") == "0":
        print_all(to_text(config), _OUTPUT[0] if _OUTPUT else None)
    raise SystemExit(0)


def to_text(config: Config) -> str:
    """The settings as YAML, with comments that `parse` ignores."""
    notes = {}
    if isinstance(config, TrainConfig):
        notes = {name: f"chosen by the data and the model: {RULES[name]}" for name in open_settings(config)}
        if config.micro_batch_size is None and config.micro_batch_tokens is None:
            notes["micro_batch_tokens"] = "chosen before the first step by a measurement, unless results depend on it"
        notes |= {name: f"chosen: {choice.reason}" for name, choice in config.chosen.items()}
    lines = []
    for line in to_yaml(config).splitlines():
        name = re.match(r"\w*", line)
        note = notes.get(name[0]) if name else None
        lines.append(f"{line}  # {note}" if note else line)
    return "\n".join(lines) + "\n"
