"""Help texts and messages are plain English: the patterns that docs/contributing/words.md rules out do not occur."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests import ROOT

PACKAGE = ROOT / "hftrain"
RULED_OUT = re.compile(
    r"\bhad from\b|\bis no folder\b|\b(is|are) none\b|\bwhoever\b|\bliked best\b|\bmay say of\b|\bknows nothing\b|"
    r"\bOf (each|every) \w+ (its|their)\b|\blikewise but\b|\bset aside for\b",
)
SPEAKING = {"warning", "error", "info", "print", "say", "Fault", "ValueError", "RuntimeError", "ConfigError"}


def messages(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of what users may read in a module: help texts of settings, and texts that are raised, logged or
    printed."""
    for node in ast.walk(ast.parse(source)):
        spoken: list[ast.AST] = []
        if isinstance(node, ast.ClassDef):
            spoken = [e.value for e in node.body if isinstance(e, ast.Expr)]
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            spoken = [*node.args] if name in SPEAKING else []
        for part in (inner for each in spoken for inner in ast.walk(each)):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.lineno, part.value


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_messages_are_plain(path):
    ruled_out = [
        f"line {line}: {match.group()!r}"
        for line, text in messages(path.read_text(encoding="utf-8"))
        if (match := RULED_OUT.search(text))
    ]
    assert ruled_out == [], "see docs/contributing/words.md"


def test_a_bad_message_is_seen():
    source = 'class C:\n    """What the metric liked best."""\n\ndef f():\n    raise ValueError(f"{x} is none")'
    assert [line for line, text in messages(source) if RULED_OUT.search(text)] == [2, 5]
