"""What the file system alone can tell is refused before torch is imported."""

import subprocess
import sys

import pytest

WATCH = (
    "import runpy, sys\n"
    "sys.argv = sys.argv[1:]\n"
    "try:\n"
    "    runpy.run_module('hftrain.cli', run_name='__main__')\n"
    "finally:\n"
    "    print('torch' in sys.modules)\n"
)


OF_CLASSIFY = [["run", "classify"], ["inspect", "classify"], ["plan", "classify"], ["slurm", "classify"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "nowhere", "a text"], "no model in nowhere"),
        (["predict", "nowhere", "--file", "missing.jsonl"], "no file missing.jsonl"),
        (["chat", "nowhere"], "no model in nowhere"),
        (["merge", "nowhere"], "no model in nowhere"),
        (["export", "nowhere"], "no model in nowhere"),
        (["verify", "nowhere"], "no checkpoint in nowhere"),
        (["compare", "nowhere", "elsewhere"], "no run in nowhere"),
        (["check-serve", "http://localhost:1", "nowhere"], "nowhere does not exist"),
        (["prepare", "--source", "a=missing.jsonl", "--tokenizer", "none"], "no file missing.jsonl"),
        *(([command, "clasify"], "no recipe 'clasify'") for command in ("run", "inspect", "plan", "slurm", "copy")),
        *(([*words, "--learning_rat", "1"], "did you mean learning_rate?") for words in OF_CLASSIFY),
        *(([*words, "--train_file", "missing.jsonl"], "no file missing.jsonl") for words in OF_CLASSIFY[:3]),
    ],
)
def test_a_command_refuses_without_torch(words, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WATCH, "hftrain", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert message in done.stderr and "Traceback" not in done.stderr
    assert done.returncode == 2 and done.stdout.strip() == "False"


@pytest.mark.parametrize("command", ["inspect", "plan", "slurm"])
def test_help_may_stand_behind_the_recipe(command, tmp_path):
    words = [sys.executable, "-c", WATCH, "hftrain", command, "classify", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith(f"usage: hftrain {command} RECIPE") and done.stdout.endswith("False\n")


def test_a_recipe_names_a_file_that_is_missing(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    watched = WATCH.replace("runpy.run_module('hftrain.cli'", "runpy.run_module('recipes.classify'")
    words = ["classify", "--train_file", "row.jsonl", "--model_name_or_path", "none"]
    done = subprocess.run([sys.executable, "-c", watched, *words], capture_output=True, text=True, cwd=tmp_path)
    assert "no file row.jsonl; did you mean 'rows.jsonl'?" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.strip() == "False"
