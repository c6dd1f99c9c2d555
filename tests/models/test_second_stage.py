"""Adapters that go on training, that cover embeddings, and whose base model has moved."""

import json
import shutil

import peft
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hftrain.cli import main
from hftrain.config import RecipeConfig
from hftrain.deploy.merge import merge
from hftrain.losses import causal_language_model
from hftrain.models import load
from hftrain.models.adapters import load_adapted
from hftrain.models.fit import embedding_rows
from hftrain.tasks.preference import PreferenceConfig, preference_loss
from hftrain.train.trials import chunk_loss
from tests.tiny import adapter_folder, chat_folder

IDS = torch.tensor([[1, 5, 9, 3, 7, 40, 2, 41]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return chat_folder(tmp_path_factory.mktemp("second") / "base", tie_word_embeddings=True)


@pytest.fixture
def adapter(base, tmp_path):
    return adapter_folder(base, tmp_path / "adapter")


def in_training(folder, *, new_tokens=(), auto=AutoModelForCausalLM, **settings):
    config = RecipeConfig(**{"train_file": "-", "model_name_or_path": str(folder), "use_peft": True} | settings)
    return load.add_adapters(load.load_model(config, auto), config, "CAUSAL_LM", new_tokens=new_tokens)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("settings", [{}, {"load_in_4bit": True}])
def test_an_adapter_trains_on(base, adapter, tmp_path, settings, caplog):
    model = in_training(adapter, **settings)
    assert "is trained further: rank 4" in caplog.text
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    if not settings:
        torch.testing.assert_close(logits(model), logits(load_adapted(adapter, AutoModelForCausalLM)))
    before, frozen = logits(model), {n: p.clone() for n, p in model.named_parameters() if n not in trained}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model.train()(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert not torch.equal(logits(model), before)
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    model.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(base) and saved["r"] == 4
    assert (
        load_file(tmp_path / "again" / "adapter_model.safetensors").keys()
        == load_file(adapter / "adapter_model.safetensors").keys()
    )
    if not settings:
        torch.testing.assert_close(logits(load_adapted(tmp_path / "again", AutoModelForCausalLM)), logits(model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_peft": False}, "contains an adapter: set use_peft to train it further, or merge it"),
        (
            {"lora_r": 8},
            "lora_r=8: the adapter in .* keeps 4 when it is trained further; remove the setting, or merge",
        ),
        ({"lora_target_modules": ["q_proj"]}, r"lora_target_modules=\['q_proj'\]: the adapter in"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa: the adapter in"),
        ({"new_tokens": [41]}, "does not train the new tokens: merge it"),
        ({"auto": AutoModelForSequenceClassification}, "contains an adapter for AutoModelForCausalLM, but this recipe"),
    ],
)
def test_what_an_adapter_that_trains_on_cannot_be(adapter, settings, message):
    with pytest.raises(ValueError, match=message):
        in_training(adapter, **settings)


def test_settings_that_say_what_the_adapter_is(adapter):
    assert in_training(adapter, lora_r=4, lora_alpha=8).peft_config["default"].r == 4


def test_the_tokenizer_of_an_adapter_without_one_is_its_bases(adapter):
    for file in adapter.iterdir():
        if not file.name.startswith("adapter_"):
            file.unlink()
    config = RecipeConfig(train_file="-", model_name_or_path=str(adapter), use_peft=True)
    assert load.load_tokenizer(config).chat_template


def test_the_reference_is_the_adapter_that_training_starts_from(adapter):
    batch = {"input_ids": IDS[None].repeat(1, 2, 1), "labels": IDS[None].repeat(1, 2, 1)}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    with pytest.raises(ValueError, match="precompute_ref_log_probs=false needs new LoRA adapters"):
        preference_loss(Accelerator(cpu=True), PreferenceConfig()).summed(in_training(adapter), batch)


def test_adapters_on_embeddings(base, tmp_path):
    model = in_training(base, lora_target_modules=["q_proj", "embed_tokens"])
    assert embedding_rows(model) == model.config.vocab_size
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    plain = causal_language_model().summed(model, {"input_ids": IDS, "labels": IDS})
    assert chunk_loss(model)
    torch.testing.assert_close(
        causal_language_model(chunked=True).summed(model, {"input_ids": IDS, "labels": IDS}), plain
    )
    model.save_pretrained(tmp_path / "adapter")
    shutil.copy(base / "tokenizer.json", tmp_path / "adapter")
    shutil.copy(base / "tokenizer_config.json", tmp_path / "adapter")
    assert merge(tmp_path / "adapter", tmp_path / "merged").mean_kl < 1e-6
    with pytest.raises(ValueError, match="lora_target_modules has embed_tokens, but new tokens need"):
        in_training(base, lora_target_modules=["embed_tokens"], new_tokens=[41])


@pytest.mark.parametrize("gone", ["/nowhere/models/base", "models/base"])
def test_a_base_that_has_moved(base, adapter, tmp_path, capsys, gone):
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": gone}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    for command in (["merge"], ["export"], ["chat"], ["predict", "some words"]):
        assert main([command[0], str(adapter), *command[1:]]) == 2
        error = capsys.readouterr().err
        assert f"the adapter's base model {gone} was not found: edit base_model_name_or_path in {adapter}" in error
        assert "--base PATH" in error
    with pytest.raises(ValueError, match=f"the adapter's base model {gone} was not found"):
        in_training(adapter)
    assert main(["merge", str(adapter), "--base", str(base), "--output", str(tmp_path / "merged")]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    expected = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    torch.testing.assert_close(logits(merged), logits(expected))
    assert main(["merge", str(adapter), "--base", "/nowhere/x", "--output", str(tmp_path / "b")]) == 2
    assert "the base model /nowhere/x (--base) was not found" in capsys.readouterr().err
    assert main(["merge", str(base), "--base", str(base), "--output", str(tmp_path / "b")]) == 2
    assert "contains a complete model: a base" in capsys.readouterr().err
