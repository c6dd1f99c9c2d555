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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "nowhere", "a text"], "no model in nowhere"),
        (["predict", "nowhere", "--file", "missing.jsonl"], "no file missing.jsonl"),
    ],
)
def test_predict_names_what_is_missing(words, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WATCH, "hftrain", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.strip() == "False"


def test_a_recipe_names_a_file_that_is_missing(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    watched = WATCH.replace("runpy.run_module('hftrain.cli'", "runpy.run_module('recipes.classify'")
    words = ["classify", "--train_file", "row.jsonl", "--model_name_or_path", "none"]
    done = subprocess.run([sys.executable, "-c", watched, *words], capture_output=True, text=True, cwd=tmp_path)
    assert "no file row.jsonl; did you mean 'rows.jsonl'?" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.strip() == "False"
