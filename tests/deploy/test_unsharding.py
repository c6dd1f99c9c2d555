"""A sharded checkpoint becomes a model for `from_pretrained`, or the damaged file is named."""

import peft
import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from hftrain import distributed
from hftrain.cli import main
from hftrain.train import checkpoint
from hftrain.train.exporting import export_settings
from tests import tiny
from tests.train.test_checkpoint import flip_a_byte

pytestmark = pytest.mark.unit
STATE = {"samples_seen": 1}


def save(folder, model, step=1, averages=None):
    """Saves as the processes of a sharded run do, of which this is the only one."""
    accelerator = Accelerator(cpu=True)
    optimizer = accelerator.prepare(torch.optim.AdamW(p for p in model.parameters() if p.requires_grad))
    what = {"pieces": distributed.pieces(accelerator, model, optimizer, averages), "state": STATE, "contract": {}}
    export = lambda place: export_settings(model, None, place)  # noqa: E731
    return checkpoint.save(accelerator, folder, step, sharded=True, export=export, **what)


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_is_put_together(tmp_path, tied, capsys):
    model = tiny.model("LlamaForCausalLM", tie_word_embeddings=tied)
    folder = save(tmp_path, model)
    assert not (folder / "model.safetensors").exists()
    assert main(["merge", str(folder)]) == 0
    assert "the model of step 1, " in capsys.readouterr().out
    again, written = AutoModelForCausalLM.from_pretrained(f"{folder}-unsharded"), model.state_dict()
    assert again.state_dict().keys() == written.keys()
    assert all(torch.equal(value, written[name]) for name, value in again.state_dict().items())
    assert main(["merge", str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_moving_averages_and_another_type_are_written(tmp_path):
    model = tiny.model("LlamaForCausalLM")
    averages = {name: parameter.detach() + 1 for name, parameter in model.named_parameters()}
    folder = save(tmp_path, model, averages=averages)
    assert main(["merge", str(folder), "--output", str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").state_dict()
    assert all(torch.equal(again[name], value.bfloat16()) for name, value in averages.items())


def test_an_adapter_is_put_together(tmp_path, capsys):
    tiny.model("LlamaForCausalLM").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    folder = save(tmp_path, model)
    assert main(["merge", str(folder)]) == 0
    assert f"hftrain merge {folder}-unsharded" in capsys.readouterr().out
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(plain, f"{folder}-unsharded")
    ids = torch.arange(8)[None]
    assert torch.equal(again(ids).logits, model.eval()(ids).logits)


def test_damage_and_options_without_effect_are_refused(tmp_path, capsys):
    model = tiny.model("LlamaForCausalLM")
    good, folder = save(tmp_path, model), save(tmp_path, model, step=2)
    assert main(["merge", str(folder), "--device", "cpu"]) == 2
    assert "leave out --device" in capsys.readouterr().err
    assert main(["export", str(folder)]) == 2
    assert f"`hftrain merge {folder}` writes its weights" in capsys.readouterr().err
    flip_a_byte(next(folder.glob("shard-*")))
    assert main(["merge", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "shard-00000-00001.safetensors" in said and f"{good} is good" in said
    assert not list(tmp_path.glob("*-unsharded*"))
