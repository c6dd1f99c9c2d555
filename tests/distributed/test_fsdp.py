"""FSDP2: what Accelerate and torch cannot cut up is refused in a sentence at the start, and nothing else is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.train.exact_worker import launch

TAKEN = {
    "DeepseekV3ForCausalLM", "DistilBertForSequenceClassification", "ElectraForMaskedLM", "GPT2LMHeadModel",
    "LlamaForCausalLM",
}  # fmt: skip


@pytest.mark.slow
def test_what_cannot_be_cut_up_is_refused_and_nothing_else(tmp_path):
    """Real models, really cut up, in one process. A model that a later version takes makes this fail."""
    worker = [sys.executable, str(Path(__file__).with_name("fsdp_worker.py")), str(tmp_path / "store")]
    done = subprocess.run(worker, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert "load_in_4bit does not work with ZeRO-3 and FSDP2" in said.pop("4 bits")["ours"]
    assert {name for name, each in said.items() if not each["theirs"]} == TAKEN
    assert {name for name, each in said.items() if not each["ours"]} == TAKEN
    assert all("launch with --use_deepspeed --zero_stage 3" in said[name]["ours"] for name in said.keys() - TAKEN)
    assert (
        "Accelerate puts bert.embeddings.word_embeddings.weight into" in said["BertForSequenceClassification"]["ours"]
    )


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
