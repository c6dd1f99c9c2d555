"""`hftrain merge`: what is written is the model that was trained, or is not written."""

import json

import peft
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from hftrain.cli import main
from hftrain.config import RecipeConfig
from hftrain.deploy.merge import MAX_KL, NotTheSame, compare, logits_of, merge
from hftrain.models import load
from hftrain.report import write_model_card
from hftrain.tasks import chat
from tests.tiny import adapter_folder, chat_folder

PROMPTS = ("some words", "1 2 3 and a few more words of no weight")


@pytest.mark.parametrize(
    ("tied", "settings"),
    [(False, {}), (True, {"use_dora": True}), (True, {"use_rslora": True})],
    ids=["lora", "tied, dora", "tied, rslora"],
)
def test_the_merged_model_is_the_trained_one(tmp_path, tied, settings):
    """Plain `from_pretrained` of what was written gives the logits of the base with its adapter."""
    base = chat_folder(tmp_path / "base", tie_word_embeddings=tied)
    folder = adapter_folder(base, tmp_path / "out", **settings)
    parity = merge(folder, tmp_path / "merged", prompts=PROMPTS)
    assert parity.mean_kl < 1e-9 and parity.max_difference < 1e-3 and parity.top1_agreement == 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    trained = peft.AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    start = AutoModelForCausalLM.from_pretrained(base).eval()
    trained, written, start = (logits_of(model, tokenizer, PROMPTS) for model in (trained, written, start))
    torch.testing.assert_close(written, trained, rtol=1e-4, atol=1e-4)
    assert compare(start, written).mean_kl > 1e-2  # the adapter is in it


@pytest.mark.parametrize(
    ("settings", "stays_tied"),
    [({"target_modules": ["lm_head", "q_proj"]}, False), ({"target_modules": ["embed_tokens", "q_proj"]}, False),
     ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False), ({"target_modules": ["q_proj"]}, True)],
    ids=["lm_head", "embed_tokens", "whole lm_head", "neither"],
)  # fmt: skip
def test_embeddings_are_untied_when_needed(tmp_path, settings, stays_tied):
    """One matrix cannot hold an adapter of the input or the output embeddings alone."""
    folder = adapter_folder(chat_folder(tmp_path / "base", tie_word_embeddings=True), tmp_path / "out", **settings)
    assert merge(folder, tmp_path / "merged", prompts=PROMPTS).mean_kl < 1e-9
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is stays_tied
    assert ("lm_head.weight" in load_file(tmp_path / "merged" / "model.safetensors")) is not stays_tied


def test_tokens_that_the_base_has_not(tmp_path):
    """New tokens' embeddings come with the adapter, and are in the merged model."""
    base = chat_folder(tmp_path / "base", tie_word_embeddings=False)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer))
    new = {name: [len(tokenizer) - 1] for name in ("embed_tokens", "lm_head")}
    adapters = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", trainable_token_indices=new)
    model = peft.get_peft_model(model, adapters).eval()
    for name, parameter in model.named_parameters():
        if "trainable_tokens_delta" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "out")
    tokenizer.save_pretrained(tmp_path / "out")
    assert merge(tmp_path / "out", tmp_path / "merged", prompts=["<|new|> words <|new|>"]).mean_kl < 1e-9
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    prompts = ["<|new|> and <|new|>"]
    found, expected = (logits_of(each, tokenizer, prompts) for each in (again, model))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_base_in_4_bits_is_dequantized(tmp_path):
    """The adapter was trained on the quantized weights: the merged model is these, and not the base's own."""
    pytest.importorskip("bitsandbytes")
    base = chat_folder(tmp_path / "base", hidden_size=64, intermediate_size=128)
    folder = adapter_folder(base, tmp_path / "out", target_modules=["q_proj", "down_proj"])
    parity = merge(folder, tmp_path / "merged", prompts=PROMPTS, load_in_4bit=True)
    assert parity.mean_kl < MAX_KL[torch.bfloat16]
    merge(folder, tmp_path / "unquantized", prompts=PROMPTS, load_in_4bit=False)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "unquantized"))
    off = [float((first[name] - second[name]).abs().max()) for name in first]
    assert 0.01 < max(off) < 0.5  # as far as 16 levels lie apart


def test_a_reward_model_with_new_tokens_on_a_base_in_4_bits(tmp_path):
    """The configuration beside the adapter is of the model that was trained: longer than the base, and quantized."""
    pytest.importorskip("bitsandbytes")
    base = chat_folder(tmp_path / "base", hidden_size=64)
    config = RecipeConfig(train_file="-", model_name_or_path=str(base), use_peft=True, lora_r=4, load_in_4bit=True)
    model = load.load_model(config, AutoModelForSequenceClassification, settings={"num_labels": 1})
    template = chat.Template(AutoTokenizer.from_pretrained(base), "chatml")
    chat.fit_model(model, template, 64)
    model = load.add_adapters(model, config, "SEQ_CLS", new_tokens=template.new_ids)
    for part in (model, model.config, template.tokenizer):
        part.save_pretrained(tmp_path / "out")
    expected = logits_of(model.eval(), template.tokenizer, PROMPTS)
    merge(tmp_path / "out", tmp_path / "merged", prompts=PROMPTS, load_in_4bit=True)
    written = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits_of(written, template.tokenizer, PROMPTS), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_is_near(tmp_path):
    folder = adapter_folder(chat_folder(tmp_path / "base"), tmp_path / "out")
    for dtype in ("float16", "bfloat16"):
        parity = merge(folder, tmp_path / dtype, dtype=dtype, prompts=PROMPTS)
        assert 0 < parity.mean_kl < MAX_KL[getattr(torch, dtype)]
        assert load_file(tmp_path / dtype / "model.safetensors")["lm_head.weight"].dtype == getattr(torch, dtype)


def test_shards(tmp_path):
    folder = adapter_folder(chat_folder(tmp_path / "base"), tmp_path / "out")
    merge(folder, tmp_path / "merged", max_shard_size="50KB", prompts=PROMPTS)
    assert len(list((tmp_path / "merged").glob("model-*-of-*.safetensors"))) > 1
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in [tmp_path / "merged", *(tmp_path / "merged").iterdir()]:  # a server may be another user
        assert path.stat().st_mode == (tmp_path / ("folder" if path.is_dir() else "file")).stat().st_mode


def test_nothing_is_left_of_what_is_not_the_same(tmp_path, capsys):
    """Beyond the threshold the command fails with exit code 1, and the folder is not there."""
    folder = adapter_folder(chat_folder(tmp_path / "base"), tmp_path / "out")
    with pytest.raises(NotTheSame, match="not the model that was trained"):
        merge(folder, tmp_path / "merged", dtype="bfloat16", prompts=PROMPTS, max_kl=0.0)
    command = ["merge", str(folder), "--output", str(tmp_path / "merged"), "--dtype", "bfloat16", "--max_kl", "0"]
    assert main(command) == 1 and "It was deleted" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if "merged" in path.name] == []


def test_a_broken_adapter_is_refused(tmp_path):
    """An adapter with a number that is none is not merged into a model that says nothing."""
    folder = adapter_folder(chat_folder(tmp_path / "base"), tmp_path / "out")
    weights = load_file(folder / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError):
        merge(folder, tmp_path / "merged", prompts=PROMPTS)
    assert not (tmp_path / "merged").exists()


DAMAGED = {
    "half": ("model.safetensors", lambda raw: raw[: len(raw) // 2], "damaged"),
    "empty": ("model.safetensors", lambda raw: b"", "damaged"),
    "pointer": (
        "model.safetensors",
        lambda raw: b"version https://git-lfs.github.com/spec/v1\noid x\n",
        "git lfs pull",
    ),
    "tokenizer": ("tokenizer.json", lambda raw: raw[:100], "damaged"),
    "adapter": ("adapter_model.safetensors", lambda raw: raw[:-1], "damaged"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_named_by_merge_export_and_chat(tmp_path, capsys, kind):
    folder = chat_folder(tmp_path / "model")
    if kind == "adapter":
        folder = adapter_folder(folder, tmp_path / "out")
    name, change, said = DAMAGED[kind]
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    for command in ("merge", "export"):
        assert main([command, str(folder), "--output", str(tmp_path / "new")]) == 2
    assert main(["chat", str(folder)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hftrain: ")]
    assert len(lines) == 3 and all(str(folder / name) in line and said in line for line in lines), lines
    assert sorted(path.name for path in tmp_path.iterdir() if path != folder) == (
        ["model"] if kind == "adapter" else []
    )


def test_weights_of_other_sizes_than_the_configuration_says(tmp_path, capsys):
    folder = chat_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    assert main(["merge", str(folder), "--output", str(tmp_path / "new")]) == 2
    assert f"the weights in {folder} do not have the sizes of its config.json" in capsys.readouterr().err


def test_the_card_of_the_run_is_carried_over(tmp_path):
    folder, merged = adapter_folder(chat_folder(tmp_path / "base"), tmp_path / "out"), tmp_path / "merged"
    merge(folder, merged, prompts=PROMPTS)
    assert not (merged / "README.md").exists()  # that in `folder` is PEFT's form
    (folder / "figures").mkdir()
    (folder / "figures" / "loss.png").write_bytes(b"png")
    write_model_card(
        folder, title="Mine", task="text-generation", usage="load_adapter()", results={"loss": 1.5}, dataset="rows",
        adapter=True, license="mit",
    )  # fmt: skip
    parity = merge(folder, tmp_path / "again", prompts=PROMPTS)
    card = ModelCard.load(tmp_path / "again" / "README.md")
    metadata = card.data
    assert (metadata.library_name, metadata.license) == ("transformers", "mit")
    assert metadata.eval_results[0].metric_value == 1.5
    assert "load_adapter" not in card.text and "![Training and evaluation loss](figures/loss.png)" in card.text
    assert "The adapter is merged into the weights, as float32" in card.text and f"{parity.mean_kl:.2g}" in card.text
    assert (tmp_path / "again" / "figures" / "loss.png").read_bytes() == b"png"
    (folder / "README.md").write_text("---\ntags: [hftrain\n---\n# Mine\n")
    with pytest.warns(UserWarning, match="README.md is not carried over"):
        merge(folder, tmp_path / "third", prompts=PROMPTS)
    assert (tmp_path / "third" / "model.safetensors").exists()
    code = card.text.partition("```python\n")[2].partition("```")[0]
    used: dict = {}
    exec(code, used)
    assert type(used["model"]).__name__ == "LlamaForCausalLM"


def test_the_command(tmp_path, capsys):
    folder = adapter_folder(chat_folder(tmp_path / "base"), tmp_path / "out")
    (tmp_path / "prompts.txt").write_text("some words\nmore words\n")
    assert main(["merge", str(folder), "--prompts", str(tmp_path / "prompts.txt")]) == 0
    assert "out-merged: max |dlogit|" in capsys.readouterr().out
    assert main(["merge", str(folder)]) == 2  # it is there already
    assert "out-merged exists already" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "none")]) == 2


def test_a_head_that_the_adapter_brings_is_no_fault(tmp_path, capfd, caplog):
    """transformers' table of missing weights is not shown; weights that nothing brings are named."""
    from transformers import LlamaForSequenceClassification

    base = chat_folder(tmp_path / "base")
    model = LlamaForSequenceClassification.from_pretrained(base, num_labels=2)
    settings = {"r": 2, "target_modules": ["q_proj"], "task_type": "SEQ_CLS"}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
    adapted.save_pretrained(tmp_path / "out")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "out")
    model.config.save_pretrained(tmp_path / "out")
    capfd.readouterr()
    caplog.clear()
    assert main(["merge", str(tmp_path / "out"), "--output", str(tmp_path / "merged")]) == 0
    assert "LOAD REPORT" not in capfd.readouterr().err + caplog.text and "random" not in caplog.text
    weights = load_file(base / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    assert main(["merge", str(tmp_path / "out"), "--output", str(tmp_path / "again")]) == 0
    assert "lacks these weights, which get random values: model.norm.weight" in caplog.text
