"""The base of configurations: dataclasses whose fields have types, limits and help texts.

A setting is a field; the string below it is its help text; ``Annotated`` has its limits::

    @dataclass
    class TrainConfig(Config):
        \"\"\"How to train.\"\"\"

        learning_rate: Annotated[float, above(0)] = 5e-4
        \"\"\"Peak learning rate.\"\"\"

An int given for a float becomes one, and so does ``1e3`` given for an int; nothing else is converted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """Invalid settings: ``key`` and ``reason`` of the first; ``problems`` has one ``ConfigError`` for each.

    ``key`` may be several names, for settings that contradict each other.
    """

    def __init__(self, key: str | Sequence[str], reason: str, where: str = "") -> None:
        self.keys = (key,) if isinstance(key, str) else tuple(key)
        self.key, self.reason, self.where = self.keys[0], reason, where
        self.problems = [self]
        super().__init__(key, reason, where)

    def __str__(self) -> str:
        lines = ((problem.where, " and ".join(problem.keys), problem.reason) for problem in self.problems)
        return "\n".join(": ".join(part for part in line if part) for line in lines)

    @classmethod
    def of(cls, problems: Sequence[ConfigError]) -> ConfigError:
        """One error with all ``problems``, one line each."""
        error = cls(problems[0].keys, problems[0].reason, problems[0].where)
        error.problems = list(problems)
        return error


@dataclass(frozen=True)
class Must:
    """A limit on a value other than None: ``rule`` completes "must be a float ...", ``test`` decides."""

    rule: str
    test: Callable[[Any], bool]


def above(low: float, *, at_most: float | None = None, under: float | None = None) -> Must:
    if at_most is not None:
        return Must(f"above {low} and at most {at_most}", lambda value: low < value <= at_most)
    if under is not None:
        return Must(f"above {low} and under {under}", lambda value: low < value < under)
    return Must(f"above {low}", lambda value: value > low)


def at_least(low: float) -> Must:
    return Must(f"of at least {low}", lambda value: value >= low)


def between(low: float, high: float) -> Must:
    """Both ends included."""
    return Must(f"from {low} to {high}", lambda value: low <= value <= high)


share = Must("of at least 0 and under 1", lambda value: 0 <= value < 1)
count_or_share = Must(
    "that is a share under 1 or a whole number", lambda value: 0 <= value < 1 or (value >= 1 and value == int(value))
)


class OneOrMore(Must):
    """Marks a list of texts that may also be given as one text."""


class Files(OneOrMore):
    """Marks a list of file names, in which commas do not separate."""


one_or_more = OneOrMore("with at least one entry", lambda value: len(value) > 0)
files = Files("with at least one entry", lambda value: len(value) > 0)


@dataclass(frozen=True)
class InsteadOf:
    """Marks a field (default None) that replaces the field ``other`` in another unit: one of them is None."""

    other: str


REFUSED: ContextVar[bool] = ContextVar("refused", default=False)  # whether `parse` has found a mistake


@dataclass
class Config:
    """The base class of every configuration: checks types, limits and contradictions when it is created.

    If a field is marked ``InsteadOf`` another and is not None, it wins in Python.

    Raises:
        ConfigError: names every wrong field.
    """

    no_result: ClassVar[tuple[str, ...]] = ()
    """Fields of your own recipe that do not change results: they may differ when a run is resumed."""

    def __post_init__(self) -> None:
        problems, kinds = [], kinds_of(type(self))
        for field in fields(self):
            try:
                setattr(self, field.name, conform(kinds[field.name], getattr(self, field.name)))
            except ValueError as error:
                problems.append(ConfigError(field.name, str(error)))
                setattr(self, field.name, default_of(field))  # so that the checks below never get a string for a number
        keep_one(kinds, vars(self))
        wrong = {problem.key for problem in problems}
        problems += [ConfigError(keys, reason) for keys, reason in self.checks() if wrong.isdisjoint(keys)]
        if not problems and not REFUSED.get():
            problems = [ConfigError(keys, reason) for keys, reason in self.late_checks()]
        if problems:
            raise ConfigError.of(problems)

    def check(self) -> None:
        """Raises ConfigError if fields contradict each other."""
        if problems := [ConfigError(keys, reason) for keys, reason in self.checks()]:
            raise ConfigError.of(problems)

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        """Yield (fields, reason) for each contradiction between fields; an override yields from ``super()`` first."""
        yield from ()

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        """Like `checks`, but slow (imports torch): called only if nothing else is wrong."""
        yield from ()


def kinds_of(cls: type) -> dict[str, Any]:
    """The type of each field, including ``Annotated``."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def unpack(kind: Any) -> tuple[Any, list[Any], bool]:
    """``Annotated[int | None, mark]`` -> (int, [mark], True): the type, its marks, whether it may be None."""
    marks: list[Any] = []
    optional = False
    while True:
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            marks += more
        elif get_origin(kind) in (Union, UnionType):
            kinds = [arg for arg in get_args(kind) if arg is not NoneType]
            if len(kinds) > 1:
                raise TypeError(f"a setting has one type, and may be None: {kind}")
            kind, optional = kinds[0], True
        else:
            return kind, marks, optional


def instead_of(kind: object) -> str | None:
    return next((mark.other for mark in unpack(kind)[1] if isinstance(mark, InsteadOf)), None)


def default_of(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def keep_one(kinds: dict[str, Any], values: dict[str, Any]) -> None:
    """If a value marked ``InsteadOf`` another is set, makes the other None."""
    for name, kind in kinds.items():
        other = instead_of(kind)
        if other and values[name] is not None:
            values[other] = None


def describe(kind: object) -> str:
    """The words for a type: ``Annotated[int | None, above(0)]`` -> ``int above 0, or null``."""
    core, marks, optional = unpack(kind)
    if get_origin(core) is Literal:
        words = " | ".join(map(str, get_args(core)))
    elif get_origin(core) is list:
        words = f"list of {describe(get_args(core)[0])}"
    elif get_origin(core) is dict:
        words = "mapping"
    else:
        words = {bool: "true or false", Any: "any value"}.get(core, getattr(core, "__name__", str(core)))
    words = " ".join([words, *(mark.rule for mark in marks if isinstance(mark, Must))])
    return f"{words}, or null" if optional else words


class Usual(int):
    """A default of a length, not set by the user, so that a model that reads fewer tokens may lower it."""


def conform(kind: object, value: Any) -> Any:
    """``value`` as a value of ``kind``. Raises ValueError, with the expected kind, if it does not fit."""
    core, marks, optional = unpack(kind)
    if core is Any or (optional and value is None):
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = False
    if get_origin(core) is Literal:
        fits = isinstance(value, str) and value in get_args(core)
    elif get_origin(core) is list:
        if isinstance(value, str | os.PathLike) and any(isinstance(mark, OneOrMore) for mark in marks):
            value = [value]
        if fits := isinstance(value, list):
            value = [conform(get_args(core)[0], item) for item in value]
    elif get_origin(core) is dict:
        fits = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    elif core is float:
        if fits := number and abs(value) <= sys.float_info.max:  # neither infinite nor NaN
            value = float(value)
    elif core is int:
        if fits := number and value == value // 1:
            value = value if isinstance(value, int) else int(value)
    else:
        if core is str and isinstance(value, os.PathLike):
            value = os.fspath(value)
        fits = isinstance(value, core)
    if fits and all(mark.test(value) for mark in marks if isinstance(mark, Must)):
        return value
    shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."
    options = get_args(core) if get_origin(core) is Literal else ()
    begun = [option for option in options if value and option.startswith(str(value))]
    near = begun or get_close_matches(str(value), options, 1)
    hint = f"; did you mean {near[0]}?" if near else "; quote it" if core is str and number else ""
    shown = "null" if value is None else shown if number else f"{shown} ({type(value).__name__})"
    raise ValueError(f"must be {describe(kind)}, not {shown}{hint}")


@dataclass(frozen=True)
class Setting:
    """One field, as ``settings`` lists it."""

    kind: Any
    default: Any
    owner: type  # the dataclass that declares it
    field: str


def settings(cls: Any, prefix: str = "", defaults: object = None) -> dict[str, Setting]:
    """All settings of ``cls`` by name; those of a nested dataclass as ``outer.inner``."""
    table: dict[str, Setting] = {}
    kinds = kinds_of(cls)
    values = {field.name: default_of(field) for field in fields(cls)} if defaults is None else dict(vars(defaults))
    keep_one(kinds, values)
    for field in fields(cls):
        kind, value = kinds[field.name], values[field.name]
        if is_dataclass(kind):
            table |= settings(kind, f"{prefix}{field.name}.", value)
        else:
            table[prefix + field.name] = Setting(kind, value, cls, field.name)
    return table


def changed(config: Config) -> dict[str, Any]:
    """The settings that the user set: those that differ from their defaults and were not chosen, by name
    (``outer.inner`` for a nested one)."""
    table = {}
    chosen = getattr(config, "chosen", {})
    for name, setting in settings(type(config)).items():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        if value != setting.default and name not in chosen:
            table[name] = value
    return table
