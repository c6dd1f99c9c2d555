"""``--help``, generated from the classes."""

from __future__ import annotations

import ast
import inspect
import shutil
import sys
import textwrap
from pathlib import Path

import yaml

from hftrain.config.schema import Config, describe, instead_of, settings
from hftrain.config.yaml12 import Dumper


def written(cls: type) -> tuple[str, dict[str, str]]:
    """The docstring of a class and the strings below its fields, from its source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError):  # typed into an interpreter: no source
        return "", {}
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match (field, below):
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = inspect.cleandoc(text)
    return ast.get_docstring(tree) or "", docs


def help_text(cls: type[Config]) -> str:
    """The text of ``--help``: all settings, grouped by the class that declares them."""
    width = min(shutil.get_terminal_size().columns, 120)
    docs: dict[type, tuple[str, dict[str, str]]] = {}
    blocks: dict[type, list[str]] = {}
    for name, setting in settings(cls).items():
        classes = [
            owner_class
            for owner_class in setting.owner.__mro__
            if setting.field in inspect.get_annotations(owner_class)
        ]
        for owner_class in classes:
            docs[owner_class] = docs[owner_class] if owner_class in docs else written(owner_class)
        doc = next(
            (docs[owner_class][1][setting.field] for owner_class in classes if setting.field in docs[owner_class][1]),
            "",
        )
        other = instead_of(setting.kind)
        default = yaml.dump(setting.default, Dumper=Dumper, default_flow_style=True, width=999).split("\n")[0]
        about = f"({describe(setting.kind)}{f'; instead of {other}' if other else ''}; default {default})"
        text = textwrap.fill(f"{doc} {about}".strip(), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
        blocks.setdefault(classes[-1], []).append(f"  --{name}\n{text}")
    usage = f"usage: {Path(sys.argv[0]).name} [--config run.yaml] [--print_config] [--setting value ...]"
    order = "Defaults, under the YAML file of --config, under the command line. --print_config shows the result."
    parts = [usage, (written(cls)[0] + "\n\n" + order).strip()]
    order_of = {owner: place for place, owner in enumerate(cls.__mro__)}  # the recipe's own settings first
    for owner in sorted(blocks, key=lambda owner: order_of.get(owner, len(order_of))):
        parts.append("\n".join([f"{owner.__name__}: {docs[owner][0]}".rstrip(": "), *blocks[owner]]))
    return "\n\n".join(parts)
