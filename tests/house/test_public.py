"""The public face: its names, what they are, what importing them costs, and the settings of all recipes."""

import importlib
import resource
import subprocess
import sys

import pytest

import hftrain
from scripts import settings
from tests import ROOT

NAMES = [
    "Config",
    "ConfigError",
    "DataConfig",
    "Examples",
    "FineTuneConfig",
    "LoraConfig",
    "Loss",
    "ModelConfig",
    "RecipeConfig",
    "Report",
    "Rows",
    "TrainConfig",
    "TransformerConfig",
    "add_adapters",
    "causal_language_model",
    "fit",
    "load_metric",
    "load_metrics",
    "load_model",
    "load_rows",
    "load_splits",
    "load_tokenizer",
    "mean_loss",
    "parse",
    "publish",
    "run",
    "sequence_to_sequence",
    "start",
]


def test_the_names_are_these():
    """A name that goes breaks programs of users: keep it, or say in CHANGELOG.md what replaces it."""
    assert hftrain.__all__ == NAMES


def test_each_name_is_there_and_hides_no_module():
    assert set(NAMES) <= set(dir(hftrain))
    modules = {path.stem for path in (ROOT / "hftrain").iterdir()}
    assert not modules & set(NAMES), "an import of the module would take the name's place"
    for name in NAMES:
        assert callable(getattr(hftrain, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        hftrain.nothing  # noqa: B018


def test_predict_is_a_module_with_a_function():
    """Model cards print `from hftrain.predict import predict`."""
    from hftrain import predict as module
    from hftrain.predict import predict

    assert module is importlib.import_module("hftrain.predict") and module.predict is predict and callable(predict)


def test_the_import_is_quick():
    seconds = []
    for _ in range(3):  # the first may have to compile
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", "import hftrain"], timeout=60, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3


def test_settings_are_read_without_torch():
    code = "import sys; from hftrain import TrainConfig, parse, run; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_the_settings_are_these():
    frozen = (ROOT / "tests" / "golden" / "settings.txt").read_text(encoding="utf-8").splitlines()
    lines = settings.listed().splitlines()
    gone, new = sorted(set(frozen) - set(lines)), sorted(set(lines) - set(frozen))
    assert (gone, new) == ([], []), (
        "name | type | default | recipes: settings changed. If that is meant, say so in CHANGELOG.md and run "
        "`python scripts/settings.py --list > tests/golden/settings.txt`"
    )


def test_the_reference_of_settings_is_not_stale():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings.page(), "run `python scripts/settings.py > docs/settings.md`"
