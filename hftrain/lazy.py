"""Packages that import their parts on first use, so that settings are checked without importing torch."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazily(package: str) -> Callable[[str], Any]:
    """The `__getattr__` (PEP 562) of a package whose `__init__` has::

        if TYPE_CHECKING:
            from package.part import name  # or from another package of ours
        else:
            __getattr__ = lazily(__name__)

    It makes the import when `name` is first used. No `name` may be that of a module in the package: importing
    the module would put it in the name's place.
    """
    module = sys.modules[package]
    source = module.__spec__.loader.get_source(package)  # type: ignore[union-attr]
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    places = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in imports
        if str(node.module).startswith(f"{package.partition('.')[0]}.")
        for alias in node.names
    }

    def import_name(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        place, attribute = places[name]
        value = getattr(import_module(place), attribute)
        setattr(module, name, value)
        return value

    return import_name
