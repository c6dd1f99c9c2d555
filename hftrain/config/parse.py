"""A configuration from its defaults < a YAML file < the command line, strict at every level."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

import yaml

from hftrain.config.defaults import open_settings
from hftrain.config.errors import explain_errors
from hftrain.config.fields import TrainConfig
from hftrain.config.help import help_text
from hftrain.config.hf_names import HF_NAMES
from hftrain.config.printing import ask, show
from hftrain.config.schema import (
    REFUSED,
    Config,
    ConfigError,
    Files,
    Setting,
    conform,
    default_of,
    describe,
    instead_of,
    kinds_of,
    settings,
    unpack,
)
from hftrain.config.yaml12 import Loader, explain
from hftrain.signals import end_program_when_asked
from hftrain.terminal import print_all, visible

COMMAND_LINE = "command line"
PRINTS = "__print_config"
C = TypeVar("C", bound=Config)


class Level:
    """The settings of one source (the file, the command line), their places, and their problems."""

    def __init__(self, table: dict[str, Setting]) -> None:
        self.table = table
        self.groups = {name[: dot.start()] for name in table for dot in re.finditer(r"\.", name)}
        self.values: dict[str, Any] = {}
        self.places: dict[str, str] = {}
        self.entries: dict[str, str] = {}  # places of the entries of mappings in a file
        self.problems: list[ConfigError] = []
        self.guesses: set[str] = set()  # likely names for misspelt ones

    def owner(self, name: str) -> str | None:
        """The setting called ``name``, or the one of which it is an entry (``model_config.hidden_size``)."""
        parts = name.split(".")
        heads = [".".join(parts[: end + 1]) for end in range(len(parts))]
        for head in heads:
            if head in self.table and (head == name or get_origin(unpack(self.table[head].kind)[0]) is dict):
                return head
        return None

    def add(self, name: str, place: str, read: Callable[[], Any], inside: Iterable[str] = ()) -> None:
        """Adds the setting ``name`` with the value that ``read()`` returns."""
        if name in self.places:
            first = "" if self.places[name] == place else f", first at {self.places[name]}"
            self.problems.append(ConfigError(name, f"given twice{first}", place))
            return
        self.places[name] = place
        if self.owner(name) is None:
            self.problems.append(ConfigError(name, self.unknown(name, inside), place))
            return
        try:
            value = read()
            self.values[name] = conform(self.table[name].kind, value) if name in self.table else value
        except ValueError as error:
            self.problems.append(ConfigError(name, str(error), place))
        except yaml.YAMLError as error:
            reason, line = explain(error)
            if line and place != COMMAND_LINE:
                place = f"{place.rpartition(':')[0]}:{line}"
            self.problems.append(ConfigError(name, reason, place))

    def unknown(self, name: str, inside: Iterable[str]) -> str:
        """Advice on ``name``, which is not a setting and contains the keys ``inside``."""
        last = name.rpartition(".")[2]
        places = [setting for setting in self.table if setting.rpartition(".")[2] == last]
        if places:
            return f"misplaced: write it as {' or '.join(places)}"
        if last in HF_NAMES:
            return HF_NAMES[last]
        if name in self.groups:
            return "is a group of settings: write them one by one below it"
        head = name.partition(".")[0]
        if head in self.table:
            return f"{head} is {describe(self.table[head].kind)}, so it cannot contain keys"
        lifted = [setting for setting in self.table if setting.rpartition(".")[2] in inside]
        if lifted:
            return f"unknown; its keys belong elsewhere: {', '.join(lifted)}"
        near = get_close_matches(name, self.table, 1)
        self.guesses |= set(near)
        return f"unknown; did you mean {near[0]}?" if near else "unknown; --help lists the settings"


def read_file(path: str, level: Level) -> None:
    """Adds the content of the YAML file to ``level``."""

    def walk(loader: Loader, node: yaml.MappingNode, prefix: str) -> None:
        for key, value in node.value:
            name, place = prefix + str(key.value), f"{path}:{key.start_mark.line + 1}"
            is_mapping = isinstance(value, yaml.MappingNode)
            if "." in str(key.value):
                level.problems.append(
                    ConfigError(name, "dots are for the command line; in YAML, write nested keys", place)
                )
            elif name in level.groups and is_mapping and name not in level.places:
                level.places[name] = place
                walk(loader, value, f"{name}.")
            else:
                lines = {str(inner.value): inner.start_mark.line + 1 for inner, _ in value.value} if is_mapping else {}
                level.entries |= {f"{name}.{inner}": f"{path}:{line}" for inner, line in lines.items()}
                level.add(name, place, partial(loader.construct_document, value), lines)

    data = b""
    try:
        data = Path(path).read_bytes()
        loader = Loader(data.decode("utf-8-sig"))
        node = loader.get_single_node()
    except OSError as error:
        problem = ConfigError("config", f"{path}: {error.strerror}", COMMAND_LINE)
    except UnicodeDecodeError as error:
        problem = ConfigError("config", "is not UTF-8", f"{path}:{data[: error.start].count(10) + 1}")
    except yaml.YAMLError as error:
        reason, line = explain(error)
        problem = ConfigError("config", f"cannot be read: {reason}", f"{path}:{line}" if line else path)
    else:
        if isinstance(node, yaml.MappingNode):
            return walk(loader, node, "")
        if node is None or node.value == "":
            return None
        problem = ConfigError("config", "must be lines of the form key: value", f"{path}:{node.start_mark.line + 1}")
    level.problems.append(problem)
    return None


def read_text(kind: object, texts: list[str]) -> Any:
    """The words after ``--name`` as a value: a string unchanged, anything else as YAML reads it."""
    core, marks, optional = unpack(kind)
    if get_origin(core) is list and optional and texts == ["null"]:
        return None
    if get_origin(core) is list and any(isinstance(mark, Files) for mark in marks):
        return texts
    if get_origin(core) is list:
        pieces = [piece for text in texts for piece in text.split(",") if piece]
        return [] if pieces == ["none"] else [read_text(get_args(core)[0], [piece]) for piece in pieces]
    if core is bool and not texts:
        return True
    if len(texts) != 1:
        raise ValueError(f"needs exactly one value, not {' '.join(texts) or 'none'}")
    if core is str or get_origin(core) is Literal:
        return None if optional and texts[0] == "null" else texts[0]
    return yaml.load(texts[0], Loader)


def read_command_line(argv: Sequence[str], level: Level) -> None:
    """Adds the command line, ``--name words ...``, to ``level``."""
    start = next((index for index, word in enumerate(argv) if word.startswith("--")), len(argv))
    for word in argv[:start]:
        option = "--config" if word.endswith((".yaml", ".yml", ".json")) else "--name"
        level.problems.append(ConfigError(word, f"has no option before it; write {option} {word}", COMMAND_LINE))
    while start < len(argv):
        end = next((i for i in range(start + 1, len(argv)) if argv[i].startswith("--")), len(argv))
        name, equals, value = argv[start][2:].partition("=")
        texts = [value] * bool(equals) + list(argv[start + 1 : end])
        owner = level.owner(name.replace("-", "_")) or name.replace("-", "_")
        name = owner + name[len(owner) :]  # keys of a mapping stay unchanged
        positive = name.removeprefix("no_")
        if name not in level.table and positive in level.table and unpack(level.table[positive].kind)[0] is bool:
            name, texts = positive, ["false", *texts]
        kind = level.table[name].kind if name in level.table else Any
        level.add(name, COMMAND_LINE, partial(read_text, kind, texts))
        start = end


def entry_set(mapping: Any, keys: list[str], value: object) -> dict[str, Any]:
    """``mapping`` with ``value`` at ``keys``; missing levels are created."""
    mapping = mapping if isinstance(mapping, dict) else {}
    head, *deeper = keys
    return {**mapping, head: entry_set(mapping.get(head), deeper, value) if deeper else value}


def build(
    cls: type[C], values: dict[str, Any], set_by_user: Container[str], problems: list[ConfigError], prefix: str = ""
) -> C | None:
    """Creates ``cls`` from its settings; on errors it fills ``problems`` and returns None.

    ``set_by_user``: the settings that the user wrote. If a group has a ``SWITCH`` and the user turns it off, its other
    settings get the defaults of the class, since the recipe's defaults would contradict the switch.
    """
    arguments = {}
    kinds = kinds_of(cls)
    switch = getattr(cls, "SWITCH", None)
    off = switch is not None and prefix + switch in set_by_user and not values[prefix + switch]
    for field in fields(cls):
        kind = kinds[field.name]
        if is_dataclass(kind):
            inner = build(cast(type[Config], kind), values, set_by_user, problems, f"{prefix}{field.name}.")
            arguments[field.name] = default_of(field) if inner is None else inner
        elif off and prefix + field.name not in set_by_user:
            arguments[field.name] = default_of(field)
        else:
            arguments[field.name] = values[prefix + field.name]
    try:
        return cls(**arguments)
    except ConfigError as error:
        problems += [ConfigError([prefix + key for key in problem.keys], problem.reason) for problem in error.problems]
        return None


def pairs(table: dict[str, Setting]) -> list[tuple[str, str]]:
    """(a setting, the one that may replace it)."""
    marked = [(name, setting.field, instead_of(setting.kind)) for name, setting in table.items()]
    return [(name.removesuffix(field) + other, name) for name, field, other in marked if other]


def join_places(places: dict[str, str], names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(places.get(name, "default") for name in names))


def resolve(cls: type[C], argv: Sequence[str]) -> C:
    """The configuration of ``argv``. Raises ConfigError."""
    table = settings(cls)
    command_line = Level({**table, "config": Setting(str | None, None, cls, "config")})
    read_command_line(argv, command_line)
    file = Level(table)
    if path := command_line.values.pop("config", None):
        read_file(path, file)

    values, places = {name: copy.deepcopy(setting.default) for name, setting in table.items()}, {}
    problems = file.problems + command_line.problems
    for level in (file, command_line):
        for name in sorted(level.values):  # a mapping before its entries
            owner = level.owner(name) or name
            entry = name[len(owner) + 1 :]
            value = level.values[name]
            values[owner] = entry_set(values[owner], entry.split("."), value) if entry else value
            places[owner] = places[name] = level.places[name]
        places |= level.entries
        for first, second in pairs(table):
            both = [name for name in (first, second) if level.values.get(name) is not None]
            if len(both) == 2:
                reason = "are two ways to say one thing: give one of them"
                problems.append(ConfigError(both, reason, join_places(level.places, both)))
            elif both:
                values[second if both == [first] else first] = None

    contradictions: list[ConfigError] = []
    token = REFUSED.set(bool(problems))
    try:
        config = build(cls, values, places, contradictions)
    finally:
        REFUSED.reset(token)
    # A setting with a wrong value now has its default, so it contradicts nothing.
    doubtful = file.guesses | command_line.guesses | {key for problem in problems for key in problem.keys}
    for problem in contradictions:
        if doubtful.isdisjoint(problem.keys):
            problems.append(ConfigError(problem.keys, problem.reason, join_places(places, problem.keys)))
    if problems or config is None:
        raise ConfigError.of(problems)
    return config


def parse(cls: type[C], argv: Sequence[str] | None = None) -> C:
    """Creates a ``cls`` from its defaults <  ``--config run.yaml`` < the command line.

    The command line takes ``--name value``, ``--name=value``, ``--a-b`` for ``--a_b``, ``--flag``, ``--no_flag``,
    ``--flag false``, lists as ``--name a b`` or ``--name a,b`` (``none`` is the empty one), ``null`` for no value, and
    entries of a mapping as ``--name.entry value``. A mapping in the file replaces the default; entries add to it.
    ``--print_config`` prints the result as YAML, ``--help`` all settings; both end the program. Settings that follow
    from the data and the model are chosen first, by the recipe; ``--print_config=as_given`` leaves them null.

    Args:
        cls: A ``Config``, usually composed: ``class TranslateConfig(DataConfig, ModelConfig, TrainConfig)``.
        argv: The words of the command line. None: those of the program; then an error is printed and ends the program
            with code 2, later errors that hftrain explains end it without a traceback, and stop signals end it with
            code 75.

    Raises:
        ConfigError: lists all mistakes with their place and what to write.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "--help" in words or "-h" in words:
        print_all(f"{help_text(cls)}\n")
        raise SystemExit(0)
    prints = [word for word in words if word.replace("-", "_").startswith(PRINTS)]
    try:
        config = resolve(cls, [word for word in words if word not in prints])
    except ConfigError as error:
        if argv is not None:
            raise
        print(visible(f"{error}\n{Path(sys.argv[0]).name} --help lists all settings."), file=sys.stderr)
        raise SystemExit(2) from None
    if prints:
        as_given = any(word.endswith("=as_given") for word in prints)
        if argv is None and not as_given and isinstance(config, TrainConfig) and open_settings(config):
            ask(config)
            return config
        show(config)
    if argv is None:
        explain_errors()
        end_program_when_asked()
    return config
