"""The layers of CONTRIBUTING.md, read from the imports: a module imports only from rows below its own."""

import ast
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hftrain"

# A folder of the package is one module here: what is in it may import what is in it.
ROWS = [
    {
        "config",
        "data",
        "files",
        "flops",
        "hush",
        "lazy",
        "losses",
        "metrics",
        "optim",
        "program",
        "sealed",
        "signals",
        "terminal",
    },
    {
        "answering",
        "causal",
        "chat",
        "checkpoint",
        "classification",
        "distributed",
        "evaluation",
        "models",
        "report",
        "splits",
        "tagging",
        "text",
        "translation",
        "trials",
    },
    {"denoising", "inspect", "preference", "prepare", "pretraining", "routing"},
    {"choosing", "contract", "ending", "folds", "loop", "resuming", "run"},
    {"compare", "export", "launch", "merge", "predict", "recipe", "serving"},
    {"cli", "recipes"},
]
ROW = {module: row for row, modules in enumerate(ROWS) for module in modules}
INSIDE_A_ROW = {
    ("config", "terminal"),
    ("metrics", "lazy"),
    ("answering", "evaluation"),
    ("answering", "models"),
    ("answering", "report"),
    ("answering", "splits"),
    ("answering", "text"),
    ("causal", "text"),
    ("causal", "trial"),
    ("classification", "evaluation"),
    ("classification", "models"),
    ("classification", "report"),
    ("classification", "splits"),
    ("classification", "text"),
    ("chat", "distributed"),
    ("chat", "evaluation"),
    ("chat", "splits"),
    ("chat", "text"),
    ("evaluation", "distributed"),
    ("models", "distributed"),
    ("trial", "distributed"),
    ("tagging", "evaluation"),
    ("tagging", "models"),
    ("tagging", "report"),
    ("tagging", "splits"),
    ("tagging", "text"),
    ("text", "models"),
    ("translation", "models"),
    ("translation", "report"),
    ("translation", "evaluation"),
    ("translation", "splits"),
    ("translation", "text"),
    ("trials", "causal"),
    ("trials", "distributed"),
    ("trials", "text"),
    ("denoising", "pretraining"),
    ("pretraining", "prepare"),
    ("loop", "choosing"),
    ("loop", "contract"),
    ("loop", "run"),
    ("resuming", "contract"),
    ("resuming", "run"),  # its type alone
    ("run", "resuming"),
    ("data", "files"),
    ("sealed", "files"),
    ("config", "signals"),
    ("data", "config"),
    ("ending", "run"),
    ("loop", "ending"),
    ("loop", "run"),
    ("run", "ending"),
    ("export", "merge"),
    ("export", "predict"),
    ("merge", "predict"),
    ("serving", "export"),
}

FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0] if path.is_relative_to(PACKAGE) else "recipes"


def imports(source: str, package: str) -> Iterator[str]:
    """Modules of ours that `source`, a file of `package`, imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{alias.name}" for alias in node.names] if base in ("hftrain", "recipes") else [base]
        for name in names:
            first, *rest = name.split(".")
            if first == "recipes":
                yield "recipes"
            elif first == "hftrain" and rest and rest[0] != "__version__":
                yield rest[0]


def arrows_up(module: str, source: str, package: str = "hftrain") -> list[str]:
    """Imports of `module` that are not allowed."""
    found = (other for other in imports(source, package) if other != module and (module, other) not in INSIDE_A_ROW)
    return [f"{module} imports {other}" for other in found if ROW.get(other, len(ROWS)) >= ROW[module]]


@pytest.mark.parametrize("path", FILES + RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    module = module_of(path)
    assert module in ROW, f"say in which row {module} belongs, here and in CONTRIBUTING.md"
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    assert arrows_up(module, path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("losses", "import hftrain.config", ["losses imports config"]),
        ("text", "def f():\n    from hftrain import loop, data", ["text imports loop"]),
        ("loop", "from recipes.translate import main", ["loop imports recipes"]),
        ("losses", "from .config import parse", ["losses imports config"]),
        ("report", "from hftrain.text import lengths", ["report imports text"]),
        ("data", "from hftrain.data.rows import load_rows\nfrom hftrain import __version__", []),
        ("recipes", "from hftrain.loop import fit\nimport torch", []),
    ],
)
def test_an_arrow_up_is_seen(module, source, found):
    assert arrows_up(module, source) == found


def test_files_fit_an_afternoon():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES + RECIPES}
    long = {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > (100 if path in RECIPES else 400)}
    assert long == {}, "recipes have at most 100 lines, modules 400: make them smaller, or a module a folder"
