"""FSDP2: what Accelerate and torch cannot cut up is refused in a sentence at the start, and nothing else is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TAKEN = {"ElectraForMaskedLM", "DistilBertForSequenceClassification", "LlamaForCausalLM", "GPT2LMHeadModel"}


@pytest.mark.slow
@pytest.mark.parametrize("efficient", ["false", "true"])
def test_what_cannot_be_cut_up_is_refused_and_nothing_else(tmp_path, efficient):
    """Real models, really cut up, in one process. A model that a later version takes makes this fail."""
    worker = [sys.executable, str(Path(__file__).with_name("fsdp_worker.py")), str(tmp_path / "store"), efficient]
    done = subprocess.run(worker, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    taken = TAKEN | {"DeepseekV3ForCausalLM"} if efficient == "false" else TAKEN
    said = json.loads(done.stdout.splitlines()[-1])
    assert "load_in_4bit does not work with ZeRO-3 and FSDP2" in said.pop("4 bits")["ours"]
    assert {name for name, each in said.items() if not each["theirs"]} == taken
    assert {name for name, each in said.items() if not each["ours"]} == taken
    assert all("launch with --use_deepspeed --zero_stage 3" in said[name]["ours"] for name in said.keys() - taken)
    assert (
        "Accelerate puts bert.embeddings.word_embeddings.weight into" in said["BertForSequenceClassification"]["ours"]
    )
    if efficient == "true":
        assert "e_score_correction_bias is a buffer: set that to false" in said["DeepseekV3ForCausalLM"]["ours"]
