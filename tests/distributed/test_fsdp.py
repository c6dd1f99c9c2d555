"""FSDP2: which models are cut up, and where their weights are before that."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.train.exact_worker import launch


@pytest.mark.slow
def test_real_models_are_cut_up_and_train(tmp_path):
    """One process, whose models share embeddings, have them in layers, or none; 4 bits are refused."""
    worker = [sys.executable, str(Path(__file__).with_name("fsdp_worker.py")), str(tmp_path / "store")]
    done = subprocess.run(worker, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert "in 4 bits (load_in_4bit) do not work with ZeRO-3 and FSDP2" in said.pop("4 bits")["ours"]
    assert len(said) > 12 and all(each == {"ours": "", "theirs": ""} for each in said.values()), said


@pytest.mark.slow
@pytest.mark.parametrize("how", ["drawn", "read"])
def test_only_the_main_process_has_the_weights_before_they_are_shards(loading, how):
    """The other one has no numbers, then its shards; both answer like the whole model, which they are cut from."""
    main, other = loading[how]
    for process in (main, other):
        assert process["answers"] and process["same"]
        assert process["buffers"] and all(process["buffers"].values())
        assert process["local"] == pytest.approx(process["whole"] / 2, rel=0.01)
    assert main["held"][1] == main["whole"]
    loaded, numbers, prepared = other["held"]
    assert numbers == 0
    assert loaded < other["largest"]
    assert prepared < other["local"] + 3 * other["largest"]


@pytest.mark.slow
def test_a_chat_answers_before_and_after_it_is_in_shards(loading):
    said = loading["said"]
    assert len(set(said["whole"])) > 1
    assert said["whole"] == said["before"] == said["after"]


@pytest.fixture(scope="module")
def loading(tmp_path_factory):
    worker, file = str(Path(__file__).with_name("loading_worker.py")), str(ROOT / "ds_configs" / "fsdp2.yaml")
    folder = tmp_path_factory.mktemp("loading")
    return launch(folder, [], "--config_file", file, worker=worker)["loading"]


KINDS = {
    "fsdp2": ["larger", "shorter", "fixed", "new", "adapted"],
    "zero3": ["new"],  # a pretrained one is cut up as it is read
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", KINDS)
def test_models_of_any_kind_and_adapters_are_sent_from_the_main_process(tmp_path, strategy):
    """Pictures, speech and boxes, with what the recipes change in them, and adapters; 4 bits are refused unread."""
    pytest.importorskip("deepspeed")
    worker, file = str(Path(__file__).with_name("kinds_worker.py")), str(ROOT / "ds_configs" / f"{strategy}.yaml")
    seen = launch(tmp_path / strategy, KINDS[strategy], "--config_file", file, worker=worker)["kinds"]
    assert "in 4 bits (load_in_4bit) do not work with ZeRO-3 and FSDP2" in seen.pop("4 bits")
    assert list(seen) == [*KINDS[strategy], "steps"]  # which `launch` adds
    del seen["steps"]
    for name, (main, other) in seen.items():
        assert main["same"] and other["same"], name
        assert main["numbers"] == main["whole"]
        assert other["numbers"] < (other["whole"] / 4 if name == "adapted" else 1), name
