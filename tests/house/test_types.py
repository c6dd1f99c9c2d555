"""Types that say something: few arguments are `Any`, no configuration is, and mypy is strict where users look."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def arguments(source: str) -> Iterator[ast.arg]:
    """Those of all functions, without `self` and `cls`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            declared = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            declared += [argument for argument in (node.args.vararg, node.args.kwarg) if argument]
            yield from (argument for argument in declared if argument.arg not in ("self", "cls"))


def is_any(argument: ast.arg) -> bool:
    return argument.annotation is not None and ast.unparse(argument.annotation) == "Any"


PACKAGE = {
    f"{path.relative_to(ROOT)}:{argument.lineno}:{argument.col_offset}": argument
    for path in sorted((ROOT / "hftrain").rglob("*.py"))
    for argument in arguments(path.read_text(encoding="utf-8"))
}


def test_bare_any_is_rare():
    bare = [place for place, argument in PACKAGE.items() if is_any(argument)]
    assert len(bare) < 0.04 * len(PACKAGE), f"{len(bare)} of {len(PACKAGE)} arguments are Any: {bare}"


def test_every_configuration_has_its_class():
    assert [place for place, argument in PACKAGE.items() if argument.arg == "config" and is_any(argument)] == []


def test_any_is_seen():
    source = "def f(self, a: Any, b: list[Any], *c: Any, d, **e: Any) -> Any: ..."
    assert [argument.arg for argument in arguments(source) if is_any(argument)] == ["a", "c", "e"]


def test_mypy_is_strict_where_the_public_names_come_from():
    """The modules that hftrain/__init__.py imports from stand in the override of pyproject.toml."""
    public = ast.parse((ROOT / "hftrain" / "__init__.py").read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(public) if isinstance(node, ast.ImportFrom)} - {"typing"}
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    strict = re.search(r"module = \[([^]]*)\]\ndisallow_any_generics = true", settings)
    assert strict and "hftrain.config.*" in strict[1]
    assert {module for module in modules if f'"{module}"' not in strict[1]} == {"hftrain.config"}
