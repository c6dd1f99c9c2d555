"""The wheel: what it brings, and that it works where nothing else is."""

import email
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

import hftrain
from tests import ROOT

# ---- the wheel ----


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_brings_the_recipes(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}  # and not the checkout
    code = "import hftrain.cli as cli; print(cli.__file__); cli.main(['recipes']); cli.main(['copy', 'translate'])"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert told[0] == str(tmp_path / "installed" / "hftrain" / "cli" / "__init__.py")
    recipes = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
    assert [line.split()[0] for line in told[1 : 1 + len(recipes)]] == recipes
    assert (tmp_path / "translate.py").read_bytes() == (ROOT / "recipes" / "translate.py").read_bytes()
    packaged = {path.relative_to(tmp_path / "installed" / "hftrain" / "_recipes") for path in
                (tmp_path / "installed" / "hftrain" / "_recipes").rglob("*.*")}  # fmt: skip
    assert {Path("configs", path.name) for path in (ROOT / "recipes" / "configs").glob("*.yaml")} <= packaged
    assert {Path("ds_configs", path.name) for path in (ROOT / "ds_configs").glob("*.*")} <= packaged


def test_the_wheel_describes_itself(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
        assert "hftrain/py.typed" in archive.namelist()
    assert (metadata["Name"], metadata["Version"]) == ("hftrain", hftrain.__version__)
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == hftrain.__version__


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(wheel, tmp_path):
    """Its own virtual environment, which finds what hftrain depends on in this one, but not the checkout."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "clean")], check=True)
    bin = tmp_path / "clean" / "bin"
    subprocess.run([bin / "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}  # of which no .pth file is read
    rows = [f"{number}\tpage {number} of {number + 1}\tSeite {number} von {number + 1}" for number in range(90)]
    (tmp_path / "pairs.tsv").write_text("\n".join(["id\tsource\ttarget", *rows]) + "\n")
    code = "import hftrain; print(hftrain.__file__, *(callable(getattr(hftrain, name)) for name in hftrain.__all__))"
    commands = [
        [bin / "python", "-c", code],
        [bin / "hftrain", "run", "translate", "--print_config=as_given"],
        [bin / "hftrain", "run", "translate", "--max_steps", "2", "--train_file", "pairs.tsv", "--output_dir", "out"],
    ]
    outputs = [
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
        for command in commands
    ]
    file, *names = outputs[0].split()
    assert Path(file).is_relative_to(tmp_path / "clean") and set(names) == {"True"}
    assert "source_lang: en" in outputs[1]
    assert (tmp_path / "out" / "model.safetensors").is_file() and (tmp_path / "out" / "all_results.json").is_file()
