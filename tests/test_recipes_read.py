"""Recipes are read by strangers: `main` is short, on lines of its own, and the docstring names what was measured."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
LOG = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
STATEMENTS = 30


def statements(source: str) -> list[ast.stmt]:
    """Every statement of `main`, imports and those of the functions in it included."""
    (main,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    return [node for node in ast.walk(main) if isinstance(node, ast.stmt) and node is not main]


def packed_lines(source: str) -> list[int]:
    """Lines that hold more than one step: two statements, two values assigned at once, or one kept from formatting."""
    nodes = statements(source)
    lines = [node.lineno for node in nodes]
    several = {line for line in lines if lines.count(line) > 1}
    several |= {node.lineno for node in nodes if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)}
    several |= {number for number, line in enumerate(source.splitlines(), 1) if re.search(r"#\s*fmt:", line)}
    return sorted(several)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_main_is_short_and_a_step_has_a_line(path):
    source = path.read_text(encoding="utf-8")
    assert len(statements(source)) <= STATEMENTS
    assert packed_lines(source) == []


@pytest.mark.parametrize(
    ("body", "count", "lines"),
    [
        ("    a = 1\n    b = 2", 2, []),
        ("    def f():\n        return 1\n    return f", 3, []),
        ("    a = 1; b = 2", 2, [2]),
        ("    a, b = 1, 2", 1, [2]),
        ("    if a: b = 1", 2, [2]),
        ("    a = [\n        1, 2,\n    ]  # fmt: skip", 1, [4]),
    ],
)
def test_what_counts_as_a_statement_and_as_packed(body, count, lines):
    source = f"def main(config):\n{body}\n"
    assert len(statements(source)) == count
    assert packed_lines(source) == lines
