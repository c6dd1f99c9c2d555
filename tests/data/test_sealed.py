"""The final model: whole or known not to be, verified byte for byte, and an edit is told from damage."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from transformers import AutoModelForMaskedLM

from hftrain import cli
from hftrain.data import sealed
from tests import ROOT, tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "out"
    with sealed.moved_in(folder, step=7) as staging:
        tiny.model("BertForMaskedLM").save_pretrained(staging)
    return folder


@pytest.fixture
def model(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "out")


def verify(folder, capsys):
    code = cli.main(["verify", str(folder)])
    return code, capsys.readouterr().out


def test_a_model_is_sealed_and_loads_as_any_other(model, capsys):
    assert sorted(p.name for p in model.iterdir()) == ["config.json", "model.safetensors", "model_manifest.json"]
    assert verify(model, capsys) == (0, "final model: good\n")
    AutoModelForMaskedLM.from_pretrained(model)
    assert sealed.read_manifest(model)["step"] == 7


@pytest.mark.parametrize("harm", ["half", "a byte", "missing", "empty"])
def test_damage_of_the_weights_is_found(model, capsys, harm):
    file = model / "model.safetensors"
    size = file.stat().st_size
    if harm == "missing":
        file.unlink()
    elif harm == "a byte":
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
    else:
        os.truncate(file, size // 2 if harm == "half" else 0)
    code, out = verify(model, capsys)
    assert code == 1 and out.startswith("final model: model.safetensors: ") and "edit" not in out


def test_what_users_add_or_edit_is_no_damage_without_a_word(model, capsys):
    (model / "README.md").write_text("mine")
    (model / "notes.txt").write_text("mine")
    assert verify(model, capsys)[0] == 0
    config = json.loads((model / "config.json").read_text()) | {"use_cache": False}
    (model / "config.json").write_text(json.dumps(config))
    code, out = verify(model, capsys)
    assert code == 1 and "config.json: " in out and "unless you edited it, it is damaged" in out
    sealed.seal(model, ["config.json"])  # as a recipe does that writes its threshold
    assert verify(model, capsys)[0] == 0


def test_a_changed_manifest_is_found(model, capsys):
    manifest = model / sealed.MANIFEST
    manifest.write_text(manifest.read_text().replace('"step": 7', '"step": 8'))
    assert "its content has changed" in verify(model, capsys)[1]
    manifest.write_text("{")
    assert "unreadable" in verify(model, capsys)[1]


def test_a_second_model_replaces_the_first_with_its_shards(model, capsys):
    (model / "README.md").write_text("mine")
    with sealed.moved_in(model, step=9) as staging:
        tiny.model("BertForMaskedLM").save_pretrained(staging, max_shard_size="8KB")
    assert not (model / "model.safetensors").exists() and (model / "README.md").exists()
    assert len(list(model.glob("model-*.safetensors"))) > 1
    assert verify(model, capsys)[0] == 0


def test_a_model_without_a_manifest_is_not_called_good(model, capsys):
    (model / sealed.MANIFEST).unlink()
    assert cli.main(["verify", str(model)]) == 2
    assert "no checkpoint" in capsys.readouterr().err


DIES = """
import os, signal, sys
from pathlib import Path
from hftrain.data import sealed
moves, replace = 0, os.replace
def dies(*paths):
    global moves
    if moves == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    moves += 1
    replace(*paths)
os.replace = dies
with sealed.moved_in(Path(sys.argv[1]), step=9) as staging:
    for name in "abc":
        (staging / f"{name}.safetensors").write_text(name * 9)
"""


@pytest.mark.parametrize("moves", [0, 1, 3, 4])
def test_a_kill_leaves_a_model_that_is_known_to_be_unfinished(model, capsys, moves):
    command = [sys.executable, "-c", DIES, str(model), str(moves)]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == -9
    code, out = verify(model, capsys)
    assert code == 1 and "its save was not finished (.saving-model): resume the run" in out
    with sealed.moved_in(model, step=9) as staging:
        (staging / "a.safetensors").write_text("a")
    assert verify(model, capsys)[0] == 0
