"""How a command starts: what it imports and from where, and how long it takes until a mistake is answered."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

HEAVY = {"torch", "transformers", "accelerate", "datasets", "numpy", "pyarrow", "matplotlib"}
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))


def run(*words, **how):
    command = [sys.executable, "-m", "hftrain.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **how)


def modules_of(code, *arguments):
    """What `code` has imported when it ends."""
    code = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n{code}"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    return set(done.stderr.splitlines()[-1].split())


def test_a_comparison_of_runs_needs_no_torch():
    assert not modules_of("import hftrain.train.compare") & {"torch", "transformers", "accelerate", "datasets"}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("words", [["--help"], ["--learning_rat", "3", "--model_config.hidden_siz", "3"]])
def test_a_recipe_answers_without_torch(recipe, words):
    code = f"import runpy; runpy.run_path({str(ROOT / 'recipes' / recipe)!r} + '.py', run_name='__main__')"
    assert not modules_of(code, *words) & HEAVY


def test_the_command_answers_in_half_a_second_of_cpu():
    for words, code, answer in (["--help"], 0, "A tag for each word"), (["--learning_rat", "3"], 2, "learning_rate"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run("run", "tag", *words)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == code and answer in done.stdout + done.stderr and "Traceback" not in done.stderr
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert seconds < 1.0  # 0.35 on an idle machine; the launcher alone would take 5


def test_importing_the_package_is_light():
    assert not modules_of("import hftrain, hftrain.config, hftrain.cli") & HEAVY


def test_losses_need_no_compiler():
    assert "torch._dynamo" not in modules_of("import hftrain.losses")


def test_models_of_text_import_none_of_pictures():
    assert not {name for name in modules_of("import hftrain.models, hftrain.predict") if "dinov3" in name}


def test_a_lazy_package_has_what_it_lists():
    import importlib

    tasks = [f"tasks/{path.name}" for path in (ROOT / "hftrain" / "tasks").iterdir() if (path / "config.py").is_file()]
    assert len(tasks) > 6
    for package in ("metrics", *tasks):
        module = importlib.import_module(f"hftrain.{package.replace('/', '.')}")
        modules = {path.stem for path in (ROOT / "hftrain" / package).iterdir()}
        assert all(getattr(module, name) is not None for name in module.__all__)
        assert not modules & set(module.__all__), "an import of the module would take the name's place"
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            module.nothing  # noqa: B018


# ---- where modules come from ----

TELLS = """
import json, sys
from importlib.util import find_spec
import neighbour
print(json.dumps([neighbour.WORD, *(find_spec(name).origin for name in ("psutil", "datasets")), sys.argv[1:]]))
"""


@pytest.fixture
def littered(tmp_path):
    """A folder with a recipe and its neighbour, and files that have names of packages and of the standard library."""
    for name in ("psutil", "datasets", "evaluate", "torch", "inspect", "hftrain", "accelerate"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('PLANTED')\n")
    (tmp_path / "neighbour.py").write_text("WORD = 'mine'\n")
    (tmp_path / "tells.py").write_text(TELLS)
    return tmp_path


def test_a_run_imports_packages_and_the_recipes_neighbours(littered):
    done = subprocess.run([Path(sys.executable).with_name("hftrain"), "run", littered / "tells.py", "--", "--a", "b"],
                          capture_output=True, text=True, timeout=120, cwd=littered)  # fmt: skip
    assert done.returncode == 0, done.stderr
    word, *files, arguments = json.loads(done.stdout.splitlines()[-1])
    assert (word, arguments) == ("mine", ["--a", "b"])
    assert not any(Path(file).is_relative_to(littered) for file in files)


@pytest.mark.parametrize("package", ["hftrain", "hftrain.config"])
@pytest.mark.parametrize("how", [["--help"], ["--nothing", "1"]])
def test_settings_are_read_the_same_way(littered, how, package):
    (littered / "own.py").write_text(
        f"from dataclasses import dataclass\nimport neighbour\nfrom {package} import TrainConfig, parse\n\n\n"
        '@dataclass\nclass Own(TrainConfig):\n    word: str = neighbour.WORD\n    """A word."""\n\n\n'
        "if __name__ == '__main__':\n    parse(Own)\n    raise RuntimeError('went on')\n"
    )
    done = subprocess.run([Path(sys.executable).with_name("hftrain"), "run", "own.py", *how], capture_output=True,
                          text=True, timeout=120, cwd=littered)  # fmt: skip
    answer = "default mine" if how == ["--help"] else "nothing: unknown"
    assert answer in done.stdout + done.stderr and done.returncode == (0 if how == ["--help"] else 2)


def test_a_recipe_that_is_no_python_is_left_to_python(tmp_path):
    (tmp_path / "broken.py").write_text("from hftrain.config import parse\nparse(Config\n")
    done = run("run", tmp_path / "broken.py")
    assert done.returncode == 1 and "SyntaxError" in done.stderr and "cli/recipes.py" not in done.stderr


ROWS = ["classify", "--train_file", "x.jsonl"]


@pytest.mark.parametrize(
    "words",
    [["recipes"], ["run", "tag", "--help"], ["run", *ROWS, "--print_config=as_given"], ["slurm", *ROWS], ["--help"]],
)
def test_a_listing_may_be_cut_short(words):
    """`hftrain recipes | head -1`"""
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-m", "hftrain.cli", *words], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    os.close(read)
    assert (process.communicate(timeout=60)[1], process.returncode) == (b"", 0)
