"""The layers of CONTRIBUTING.md, read from the imports: a module imports only from rows below its own."""

import ast
import re
from collections.abc import Iterator, Sequence
from importlib.util import resolve_name
from pathlib import Path

import pytest

from tests import ROOT

pytestmark = pytest.mark.unit

PACKAGE = ROOT / "hftrain"

TABLE = re.compile(r"^\| (\d+) \| (.+?) \|", re.MULTILINE)  # of CONTRIBUTING.md: row and rooms
ROW = {
    room: int(row)
    for row, rooms in TABLE.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    for room in re.findall(r"`([a-z_/]+?)/?`", rooms)
}
INSIDE_A_ROW = {("tasks/preference", "tasks/chat"), ("report", "data"), ("config", "metrics")}
PUBLIC = {  # names of hftrain/__init__.py, and the modules that they come from
    alias.name: node.module
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")))
    if isinstance(node, ast.ImportFrom) and node.module
    for alias in node.names
}


FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path not in (PACKAGE / "__init__.py", PACKAGE / "tasks" / "__init__.py")
]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))


def room_of(names: Sequence[str]) -> str:
    """The room of the module `hftrain.` + names: its first folder, for a task the folder of the task."""
    return "/".join(names[: 2 if names[0] == "tasks" else 1])


def module_of(path: Path) -> str:
    return room_of(path.relative_to(PACKAGE).with_suffix("").parts) if path.is_relative_to(PACKAGE) else "recipes"


def imports(source: str, package: str) -> Iterator[str]:
    """Modules of ours that `source`, a file of `package`, imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{alias.name}" for alias in node.names]
            if base == "hftrain":
                names = [PUBLIC.get(alias.name, f"hftrain.{alias.name}") for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first == "recipes":
                yield "recipes"
            elif first == "hftrain" and rest and rest[0] != "__version__":
                yield room_of(rest)


def arrows_up(module: str, source: str, package: str = "hftrain") -> list[str]:
    """Imports of `module` that are not allowed."""
    found = (other for other in imports(source, package) if other != module and (module, other) not in INSIDE_A_ROW)
    return sorted({f"{module} imports {other}" for other in found if ROW.get(other, 99) >= ROW[module]})


@pytest.mark.parametrize("path", FILES + RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    module = module_of(path)
    assert module in ROW, f"CONTRIBUTING.md does not say in which row {module} belongs"
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    assert arrows_up(module, path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("losses", "import hftrain.config", ["losses imports config"]),
        ("text", "def f():\n    from hftrain import train, data", ["text imports train"]),
        ("train", "from recipes.translate import main", ["train imports recipes"]),
        ("losses", "from .config import parse", ["losses imports config"]),
        ("report", "from hftrain.text import lengths", ["report imports text"]),
        ("data", "from hftrain.data.rows import load_rows\nfrom hftrain import __version__", []),
        ("tasks/tagging", "from hftrain.tasks import chat", ["tasks/tagging imports tasks/chat"]),
        ("recipes", "from hftrain.train.loop import fit\nimport torch", []),
        ("recipes", "from hftrain import fit, text", []),
        ("data", "from hftrain import fit", ["data imports train"]),
    ],
)
def test_an_arrow_up_is_seen(module, source, found):
    assert arrows_up(module, source) == found


def test_files_fit_an_afternoon():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES + RECIPES}
    long = {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > (100 if path in RECIPES else 400)}
    assert long == {}, "recipes have at most 100 lines, modules 400: make them smaller, or a module a folder"


def test_tests_stand_in_rooms_and_fit_an_afternoon_too():
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path.name != "__init__.py"]
    long = {str(path.relative_to(ROOT)): n for path in tests if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}, "files of tests have at most 400 lines: split them by topic"
    rooms = {path.relative_to(ROOT / "tests").parent for path in tests if path.name.startswith("test_")}
    known = {path.relative_to(PACKAGE).parent for path in FILES} | {Path("house"), Path("recipes")}
    assert rooms <= known and Path() not in rooms, "a test stands in the folder that has the name of the room it tests"
