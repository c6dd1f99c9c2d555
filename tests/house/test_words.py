"""The code is written in plain English: without the patterns and names that docs/contributing/words.md rules out."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator

import pytest

from tests import ROOT

pytestmark = pytest.mark.unit

RULED_OUT = re.compile(
    r"\bhad from\b|\b(be|is|are) had\b|\bis no folder\b|\b(is|are) none\b|\b[Ww]hoever\b|"
    r"\b([Nn]o|[Aa]ny|[Ss]ome)body\b|\bliked best\b|\bmay say of\b|\bknows nothing\b|\blikewise but\b|"
    r"\bset aside for\b|\bwithout a word\b|"
    r"\b(is|are|was) (said|told)\b|\bsays (so|which|where)\b|\b[Mm]end(ed|s)?\b|\bof its own accord\b|"
    r"(^|\. |: )Of (a|an|the|each|every|its|all|one|several|two|many|what|those)\b"
)
NAMES = {"each", "found", "said", "told"}


def texts(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of all docstrings, comments and messages of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def names(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of all variables, arguments, functions and classes of a module. "right" is a name beside "left"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def faults(source: str) -> list[str]:
    words = [(line, match.group()) for line, text in texts(source) if (match := RULED_OUT.search(text))]
    stored = list(names(source))
    ruled_out = NAMES if any(name == "left" for _, name in stored) else NAMES | {"right"}
    return [f"line {line}: {text!r}" for line, text in sorted([*words, *(n for n in stored if n[1] in ruled_out)])]


MODULES = [path for folder in ("hftrain", "recipes", "scripts", "bench") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("path", sorted(MODULES), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_plain(path):
    assert faults(path.read_text(encoding="utf-8")) == [], "see docs/contributing/words.md"


@pytest.mark.parametrize(
    "source",
    [
        'def f():\n    """Of each window its own words."""',
        'raise ValueError(f"{x} is none")',
        'logger.warning("what is said of %s", x)',
        "x = 1  # whoever calls",
        "found = 1",
        "def f(each): ...",
        "[told for told in x]",
        "right = 1",
    ],
)
def test_a_bad_word_is_seen(source):
    assert len(faults(source)) == 1
    assert faults("left, right = x  # as they are") == []
