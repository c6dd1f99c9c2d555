"""The guides: each command line in them is one that the command takes, and each link leads somewhere.

So is each command in the docstring of a recipe, and each that older guides printed (`old_commands.sh`).
"""

import ast
import contextlib
import importlib
import io
import itertools
import re
import shlex
import typing
from pathlib import Path

import pytest

from hftrain import RecipeConfig, cli
from hftrain.config import parse
from tests import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "ds_configs").glob("*.md")])
PROGRAMS = {"hftrain", "accelerate", "torchrun", "pip", "make", "kubectl", "transformers", "python", "pytest"}
RECIPES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.py"))}
README_RECIPE = "my_recipe"  # the one that the README shows whole, with the settings that every recipe has
OLD = Path(__file__).with_name("old_commands.sh")


def blocks(page, language):
    """The fenced blocks of a language, each with the number of its first line."""
    for match in re.finditer(
        rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        yield page.read_text(encoding="utf-8").count("\n", 0, match.start()) + 2, match[1]


def words_of(line):
    """The words of a command, without comments and without NAME=value of the environment."""
    words = shlex.split(line, comments=True)
    return list(itertools.dropwhile(lambda word: "=" in word, words))


def commands_outside_pages():
    """Of the recipes' docstrings, where "..." stands for what another line has, and of older guides."""
    sources = {f"recipes/{name}.py": ast.get_docstring(ast.parse(path.read_text())) for name, path in RECIPES.items()}
    sources[OLD.name] = OLD.read_text(encoding="utf-8")
    for name, text in sources.items():
        for line in re.sub(r"\\\n\s*", "", text).splitlines():
            if re.match(r"\s*(hftrain|accelerate|torchrun|pip) ", line) and "..." not in line:
                yield pytest.param(words_of(line), id=f"{name}:{line.strip()[:60]}")


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
                if words := words_of(line.removeprefix("$ ")):
                    yield pytest.param(words, id=f"{page.relative_to(ROOT)}:{number}:{' '.join(words[:3])[:40]}")
                number += 1


COMMANDS = [*commands(), *commands_outside_pages()]


def check_settings(recipe, words):
    """The recipe takes these settings; files that a guide only names need not be there."""
    main = None if recipe == README_RECIPE else importlib.import_module(f"recipes.{recipe}").main
    parse(typing.get_type_hints(main)["config"] if main else RecipeConfig, words)


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 150
    assert {parameter.id.partition(":")[0] for parameter in commands_outside_pages()} == {
        *(f"recipes/{name}.py" for name in RECIPES),
        OLD.name,
    }


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
    assert recipe in {*RECIPES, README_RECIPE}
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


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_begins_with_what_it_is_for_and_the_readme_leads_to_it(page):
    title, _, paragraph = page.read_text(encoding="utf-8").split("\n")[:3]
    assert title.startswith("# ") and re.match(r"[A-Z][\w ,:;'`*()\[\]/.-]{20}", paragraph), "a sentence, not a table"
    assert f"docs/{page.name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_page_repeats_another():
    """No ten words of prose in a row stand on two pages; lists of settings and the log quote what they are about."""
    places = {}
    for page in PAGES:
        if page.name in ("CHANGELOG.md", "log.md", "settings.md"):
            continue
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        words = re.findall(r"[\w'/.]+", prose)
        for start in range(len(words) - 9):
            places.setdefault(" ".join(words[start : start + 10]), set()).add(str(page.relative_to(ROOT)))
    assert len(places) > 5000
    assert {words: pages for words, pages in places.items() if len(pages) > 1} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_tests_that_a_page_names_exist(page):
    """In the log too: who repeats a measurement looks for the file where it stands today."""
    named = set(re.findall(r"tests/[\w/]+\.(?:py|sh|txt)", page.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_each_trap_names_a_test_that_exists():
    """docs/architecture.md: the last column of the table of traps."""
    rows = re.findall(
        r"^\| .* \| (`test_\w+`|no test) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 20
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("**/test_*.py"))
    missing = [row for row in rows if row != "no test" and f"def {row.strip('`')}(" not in tests]
    assert missing == []
