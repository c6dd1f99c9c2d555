"""YAML as version 1.2 defines it: ``1e-4`` is a number, ``no`` is a string, ``true`` and ``false`` are the booleans."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import yaml

from hftrain.config.schema import Config, Usual

# The core schema (https://yaml.org/spec/1.2.2/#103-core-schema). PyYAML's own is that of YAML 1.1, where 1e-4 is a
# string, `no` is false, 010 is 8 and 1:30 is 90.
SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
              list("-+.0123456789")),
}  # fmt: skip


MOST_LEVELS = 100


class Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own way)
    level = 0  # of mappings and lists inside one another

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self.level > MOST_LEVELS:
            problem = f"nested more than {MOST_LEVELS} levels deep"
            raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)
        if getattr(event, "tag", None) not in (None, "!"):  # `!!bool x` would crash, and no setting needs one
            raise yaml.constructor.ConstructorError(
                None, None, f"the tag {event.tag} is not supported", event.start_mark
            )
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if str(key.value) in lines:
                problem = f"{key.value!r} is given twice, first in line {lines[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value == "<<" and key.style is None:
                raise yaml.constructor.ConstructorError(None, None, "'<<' is not supported", key.start_mark)
            lines[str(key.value)] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def explain(error: yaml.YAMLError) -> tuple[str, int | None]:
    """What is wrong with a text, and in which line (from 1), where that is known."""
    if isinstance(error, yaml.MarkedYAMLError):
        return str(error.problem), error.problem_mark.line + 1 if error.problem_mark else None
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character {error.character:#x} is not allowed", None
    return str(error), None


class Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than a string."""


for _tag, (_pattern, _first) in SCALARS.items():
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
Loader.add_constructor(
    "tag:yaml.org,2002:int", lambda _, node: int(node.value, 0 if node.value[:2] in ("0x", "0o") else 10)
)


Dumper.add_representer(Usual, lambda dumper, value: dumper.represent_int(int(value)))


def to_yaml(config: Config) -> str:
    """All settings as YAML that ``parse`` reads back to an equal configuration."""
    return yaml.dump(asdict(config), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
