"""The guides: each command line in them is one that the command takes, and each link leads somewhere."""

import contextlib
import importlib
import io
import itertools
import re
import shlex
import typing
from pathlib import Path

import pytest

from hftrain import cli
from hftrain.config import parse
from tests import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "ds_configs").glob("*.md")])
PROGRAMS = {"hftrain", "accelerate", "torchrun", "pip", "make", "kubectl", "transformers", "python", "pytest"}
RECIPES = {path.stem for path in (ROOT / "recipes").glob("*.py")}


def blocks(page, language):
    """The fenced blocks of a language, each with the number of its first line."""
    for match in re.finditer(
        rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        yield page.read_text(encoding="utf-8").count("\n", 0, match.start()) + 2, match[1]


def commands():
    """(page and line, words) of each command in the shell blocks, without comments, continued lines joined."""
    for page in PAGES:
        if page.name == "CONTRIBUTING.md":  # shell functions, which are not ours to read
            continue
        for start, block in blocks(page, "sh"):
            shown = "$ " in block  # a session: what follows `$` is typed, the rest is printed
            number = start
            for line in re.sub(r"\\\n", lambda match: " ", block).splitlines():
                if shown and not line.startswith("$ "):
                    continue
                words = shlex.split(line.removeprefix("$ "), comments=True)
                while words and "=" in words[0]:  # NAME=value of the environment
                    words = words[1:]
                if words:
                    yield pytest.param(words, id=f"{page.relative_to(ROOT)}:{number}:{' '.join(words[:3])[:40]}")
                number += 1


COMMANDS = list(commands())


def check_settings(recipe, words):
    """The recipe takes these settings; files that a guide only names need not be there."""
    config = typing.get_type_hints(importlib.import_module(f"recipes.{recipe}").main)["config"]
    parse(config, words)


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_in_the_guides_is_taken(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *rest = words
    assert program in PROGRAMS, "a program that this test does not know: add it, with how to check it"
    if program == "make":
        assert rest[0] in re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if program == "hftrain" and rest[0] in ("run", "inspect", "slurm") and "--help" not in rest:
        check_recipe(rest[1], rest[2:])
    elif program in ("accelerate", "torchrun"):
        (place,) = [index for index, word in enumerate(rest) if word.endswith(".py")]
        assert (ROOT / rest[place]).is_file()
        check_settings(Path(rest[place]).stem, rest[place + 1 :])
    elif program == "hftrain":
        check_subcommand(rest)


def check_recipe(recipe, words):
    """`hftrain run RECIPE [options of the launcher --] settings`."""
    recipe = recipe.removesuffix(".py")
    assert recipe in RECIPES
    own = list(itertools.dropwhile(lambda word: word != "--", words))[1:] if "--" in words else words
    for flag, file in itertools.pairwise(words):
        if flag == "--config_file" and file.startswith("ds_configs"):
            assert (ROOT / file).is_file()
    config = [ROOT / "recipes" / word if word.startswith("configs/") else word for word in own]
    check_settings(recipe, list(map(str, config)))


def check_subcommand(words):
    """The parser takes the words: what it refuses, it refuses with SystemExit."""
    parser = cli.make_parser()
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parser.parse_args(words)
    except SystemExit as end:
        assert end.code == 0, errors.getvalue()


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=lambda page: page.stem)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    """A guide's Python blocks, one after another, as a reader would type them into the cells of a notebook."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = {"__name__": page.stem}
    for number, block in blocks(page, "python"):
        exec(compile("\n" * (number - 1) + block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, heading = target.partition("#")
        if "://" in target:
            continue
        linked = page.parent / file if file else page
        assert linked.exists(), f"{page.name}: {target}"
        if heading and linked.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, f"{page.name}: no heading for {target}"


def test_each_trap_names_a_test_that_exists():
    """docs/architecture.md: the last column of the table of traps."""
    rows = re.findall(
        r"^\| .* \| (`test_\w+`|no test) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 20
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("**/test_*.py"))
    missing = [row for row in rows if row != "no test" and f"def {row.strip('`')}(" not in tests]
    assert missing == []
