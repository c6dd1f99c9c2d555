"""The launch files: sound, explained, found from any folder, and refused with the nearest name where a key is wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from hftrain.distributed.deepspeed_file import check_deepspeed, find_deepspeed_file
from tests import ROOT

FOLDER = ROOT / "ds_configs"
JSON, YAML = sorted(FOLDER.glob("*.json")), sorted(FOLDER.glob("*.yaml"))
pytest.importorskip("deepspeed")


def test_there_is_one_for_each_strategy():
    zero = {"zero1", "zero2", "zero3", "zero3_offload", "zero3_nvme"}
    assert {path.stem for path in JSON} == zero
    assert {path.stem for path in YAML} == zero | {"fsdp2", "ddp"}


@pytest.mark.parametrize("path", JSON, ids=lambda path: path.stem)
def test_deepspeed_files_hold_what_deepspeed_knows(path):
    config = json.loads(path.read_text())
    assert list(check_deepspeed(config)) == []
    assert config["zero_optimization"]["stage"] == int(re.search(r"\d", path.stem).group())
    assert all(config[key] == "auto" for key in ("train_batch_size", "gradient_clipping"))


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.stem)
def test_launch_files_hold_what_accelerate_knows(path):
    load_config_from_file(str(path))  # refuses unknown keys at the top
    config = yaml.safe_load(path.read_text())
    options = {action.dest for action in launch_command_parser()._actions}
    inner = config.get("deepspeed_config", {}) | config.get("fsdp_config", {})
    assert inner.keys() <= options
    if "zero" in path.stem:
        assert config["deepspeed_config"]["deepspeed_config_file"] == f"{path.stem}.json"


def keys(config: dict, prefix: str = "") -> set[str]:
    inner = [keys(value) for value in config.values() if isinstance(value, dict)]
    return set(config).union(*inner)


def test_every_key_is_explained():
    explained = (FOLDER / "README.md").read_text()
    used = set().union(*(keys(json.loads(path.read_text())) for path in JSON))
    used |= set().union(*(keys(yaml.safe_load(path.read_text())) for path in YAML))
    words = set(re.findall(r"[a-z0-9_]+", explained))
    assert used - words == set()


def test_mistakes_are_named_with_the_nearest_key():
    config = {
        "zero_optimisation": {}, "optimizer": {"type": "AdamW"}, "gradient_clipping": 0.5,
        "zero_optimization": {"stage": 3, "overlap_com": True, "offload_param": {"devise": "cpu"}},
        "bf16": {"enabled": True}, "aio": {"queue_dept": 8},
    }  # fmt: skip
    assert list(check_deepspeed(config)) == [
        "zero_optimisation: DeepSpeed does not know this key; did you mean zero_optimization?",
        "optimizer: the recipe creates the optimizer: set optim, learning_rate, weight_decay, and remove this block",
        "zero_optimization.overlap_com: DeepSpeed does not know this key; did you mean zero_optimization.overlap_comm?",
        "zero_optimization.offload_param.devise: DeepSpeed does not know this key; "
        "did you mean zero_optimization.offload_param.device?",
        "aio.queue_dept: DeepSpeed does not know this key; did you mean aio.queue_depth?",
        'gradient_clipping is 0.5: set "auto"; the recipe\'s max_grad_norm decides it',
        'bf16.enabled is true: set "auto"; the recipe\'s bf16 decides it',
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"bf16": {},\n "fp16": {}', r"x.json:2: not valid JSON"),
        ('{"zero_optimization": {"stage": 2, "stage": 3}}', "x.json: the key stage occurs twice"),
        ("[]", "x.json:\n  is not a mapping of keys to values"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path, monkeypatch, text, message):
    (tmp_path / "x.json").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        find_deepspeed_file("x.json")


def test_a_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}/y.json does not exist"):
        find_deepspeed_file("y.json")


def test_the_deepspeed_file_beside_the_launch_file_is_found_from_any_folder(tmp_path):
    """Of the process that starts ours, the command line says which launch file it is."""
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    shutil.copy(FOLDER / "zero3.json", there)
    read = "from hftrain.distributed.deepspeed_file import find_deepspeed_file as find; print(find('zero3.json'))"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {read!r}], check=True)"
    done = subprocess.run(
        [sys.executable, "-c", launcher, "--config_file", "../there/zero3.yaml"], cwd=here,
        env=os.environ | {"DS_ACCELERATOR": "cpu"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.splitlines()[-1]).resolve() == there / "zero3.json"
