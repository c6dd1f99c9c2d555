"""The settings of all recipes, read from their dataclasses.

python scripts/settings.py > docs/settings.md                     # with their help texts
python scripts/settings.py --list > tests/golden/settings.txt     # name, type, default, recipes: one setting a line
"""

import importlib
import inspect
import sys
import typing
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hftrain.config.help import written  # noqa: E402
from hftrain.config.schema import Config, Setting, describe, instead_of, settings  # noqa: E402
from hftrain.config.yaml12 import Dumper  # noqa: E402

HEAD = """# Settings

Written by `python scripts/settings.py > docs/settings.md`; a test fails when it is stale. `hftrain run RECIPE --help`
prints the same for one recipe. A setting stands under the class that declares it. Where recipes have different
defaults, each default is listed with its recipes. A default of null is chosen for the data and the model
([defaults.md](defaults.md)), or has the meaning that the text gives.
"""


def recipes() -> dict[str, type[Config]]:
    """The configuration class of each recipe, by the recipe's name."""
    names = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
    return {name: typing.get_type_hints(importlib.import_module(f"recipes.{name}").main)["config"] for name in names}


def default_text(setting: Setting) -> str:
    return yaml.dump(setting.default, Dumper=Dumper, default_flow_style=True, width=9999).split("\n")[0]


def listed() -> str:
    """One line for each setting with its type, its default and the recipes that have it so."""
    users: dict[tuple[str, str, str], list[str]] = {}
    classes = recipes()
    for recipe, cls in classes.items():
        for name, setting in settings(cls).items():
            users.setdefault((name, describe(setting.kind), default_text(setting)), []).append(recipe)
    rows = ((*key, "all" if len(names) == len(classes) else " ".join(names)) for key, names in users.items())
    return "".join(" | ".join(row) + "\n" for row in sorted(rows))


def page() -> str:
    """docs/settings.md."""
    classes = recipes()
    declared: dict[type, dict[str, list[tuple[str, Setting]]]] = {}  # declaring class -> setting -> (recipe, setting)
    for recipe, cls in classes.items():
        for name, setting in settings(cls).items():
            owner = [c for c in setting.owner.__mro__ if setting.field in inspect.get_annotations(c)][-1]
            declared.setdefault(owner, {}).setdefault(name, []).append((recipe, setting))
    parts = [HEAD]
    for owner in sorted(declared, key=lambda cls: (-max(map(len, declared[cls].values())), cls.__name__)):
        named = {recipe for uses in declared[owner].values() for recipe, _ in uses}
        users = "all recipes" if len(named) == len(classes) else ", ".join(f"`{name}`" for name in sorted(named))
        parts.append(f"## {owner.__name__}\n\n{written(owner)[0]}\n\nIn {users}.\n")
        parts.append("\n".join(entry(name, uses) for name, uses in declared[owner].items()) + "\n")
    return "\n".join(parts)


def entry(name: str, uses: list[tuple[str, Setting]]) -> str:
    """One setting as an item of a list."""
    defaults: dict[str, list[str]] = {}
    for recipe, setting in uses:
        defaults.setdefault(default_text(setting), []).append(recipe)
    setting = uses[0][1]
    texts = (written(cls)[1].get(setting.field) for cls in setting.owner.__mro__)
    text = " ".join(next((text for text in texts if text), "").split())
    alternative = instead_of(setting.kind)
    kind = describe(setting.kind) + (f"; instead of `{alternative}`" if alternative else "")
    if len(defaults) == 1:
        default = f"`{next(iter(defaults))}`"
    else:
        default = ", ".join(f"`{value}` ({', '.join(names)})" for value, names in defaults.items())
    return f"- `{name}`: {text} ({kind}; default {default})"


if __name__ == "__main__":
    print(listed() if sys.argv[1:] == ["--list"] else page(), end="")
