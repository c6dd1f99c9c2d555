"""`hftrain recipes`, `copy`, `run`: files of `recipes/` in the repository, of `hftrain/_recipes/` in a wheel."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

from hftrain.cli import program
from hftrain.cli.commands import Commands
from hftrain.signals import exit_code, relay
from hftrain.terminal import visible

PACKAGE = Path(__file__).resolve().parents[1]
SHOWS = {"--help", "-h", *(f"--print{mark}config{way}" for mark in "_-" for way in ("", "=as_given"))}  # and ends


def add(commands: Commands) -> None:
    command = commands.add_parser("recipes", help="list the recipes")
    command.set_defaults(command=list_recipes)

    command = commands.add_parser("copy", help="copy a recipe and its configurations, to change them")
    command.add_argument("recipe", metavar="RECIPE", help="a name that `hftrain recipes` lists")
    command.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=Path("."), help="default: here")
    command.set_defaults(command=copy_recipe)

    command = commands.add_parser(
        "run",
        help="train: run a recipe through Accelerate",
        usage="hftrain run RECIPE [options of accelerate launch --] [options of the recipe]",
        epilog="`hftrain run translate --help` lists that recipe's options. Exit code 75: stopped by a signal; the "
        "saved state and the command to resume are printed.",
    )
    command.add_argument(
        "recipe", metavar="RECIPE", help="a name that `hftrain recipes` lists, or the path of a recipe"
    )
    command.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="--num_processes 2 -- --seed 1")
    command.set_defaults(command=run_recipe)


def recipes_folder() -> Path:
    packaged = PACKAGE / "_recipes"
    return packaged if packaged.is_dir() else PACKAGE.parent / "recipes"


def find_recipe(name: str) -> Path:
    """The file of the recipe with this name or path.

    Raises:
        ValueError: the recipe does not exist; the message lists the names.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise ValueError(f"the recipe file {name} does not exist")
        return Path(name)
    recipes = {path.stem: path for path in sorted(recipes_folder().glob("*.py"))}
    if name not in recipes:
        raise ValueError(f"no recipe {name!r}: choose from {', '.join(recipes)}, or give the path of a recipe (x.py)")
    return recipes[name]


def parses(recipe: str | Path) -> str:
    """How a recipe reads its settings: by "run", as `run(main, Class)`, or by "parse", as `parse(Class)`, which end it
    at --help and at the first mistake; "": otherwise."""
    try:
        nodes = list(ast.walk(ast.parse(Path(recipe).read_bytes())))
    except SyntaxError:  # Python reports it when the recipe runs
        return ""
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    calls = {
        (node.func.id, len(node.args), len(node.keywords))
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    if ("run", 2, 0) in calls and imported & {"hftrain", "hftrain.train.recipe"}:
        return "run"
    return "parse" if ("parse", 1, 0) in calls and imported & {"hftrain", "hftrain.config"} else ""


def refusal(recipe: str | Path, options: list[str]) -> str:
    """What a recipe says against its settings, before torch is imported; "" if only the run itself can tell."""
    if not (how := parses(recipe)):
        return ""
    words = [sys.executable, program.FILE, "--settings", str(recipe), *options]
    checked = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if checked.returncode == 0 and how == "run":  # it would look for the files too, behind the launcher's imports
        import yaml

        from hftrain.config.yaml12 import Loader
        from hftrain.data.sources import require_files

        try:
            require_files(argparse.Namespace(**yaml.load(checked.stdout, Loader=Loader)))
        except ValueError as error:
            return visible(f"hftrain: {error}\n")
    return checked.stderr if checked.returncode == 2 else ""  # another failure may come from an import


def list_recipes(args: argparse.Namespace) -> int:
    recipes = sorted(recipes_folder().glob("*.py"))
    width = max((len(path.stem) for path in recipes), default=0)
    for path in recipes:
        lines = (ast.get_docstring(ast.parse(path.read_bytes())) or "").splitlines()
        print(f"{path.stem:{width}}  {lines[0] if lines else ''}".rstrip())
    return 0


def copy_recipe(args: argparse.Namespace) -> int:
    """Copies the recipe, and its `configs/RECIPE-*.yaml`. Overwrites nothing that differs."""
    recipe = find_recipe(args.recipe)
    configs = sorted(recipe.parent.glob(f"configs/{recipe.stem}-*.yaml"))
    copies = {path: args.folder / path.relative_to(recipe.parent) for path in [recipe, *configs]}
    for path, copied in copies.items():
        if copied.exists() and copied.read_bytes() != path.read_bytes():
            raise ValueError(
                f"{copied} exists already and differs; copy to another folder: hftrain copy {args.recipe} DIR"
            )
    for path, copied in copies.items():
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
        print(copied)
    return 0


def run_recipe(args: argparse.Namespace) -> int:
    """Waits for the run, forwards signals to it, and returns its exit code (128 + N if signal N ended it).

    A signal before the recipe can handle it also ends it with 75."""
    recipe, arguments = str(find_recipe(args.recipe)), args.arguments
    split = arguments.index("--") if "--" in arguments else -1
    launcher, own = arguments[: max(split, 0)], arguments[split + 1 :]
    if SHOWS.intersection(own) and parses(recipe):
        return subprocess.run([sys.executable, program.FILE, recipe, *own]).returncode
    child: subprocess.Popen | None = None
    sent = relay(lambda: [child.pid] if child else [])
    if refused := refusal(recipe, own):
        print(refused, end="", file=sys.stderr)
        return 2
    # A new session: otherwise a terminal would send Ctrl-C to every process of the run, in addition to ours.
    words = [sys.executable, program.FILE, "-m", "hftrain.cli.launch", *launcher, recipe, *own]
    child = subprocess.Popen(words, start_new_session=True)
    return exit_code(child.wait(), sent)
