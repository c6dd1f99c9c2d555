"""Models, tokenizers and adapters as a configuration asks for them, and rows in their splits."""

import json
import shutil

import datasets
import pytest
import torch
import transformers
from transformers import AutoModelForSeq2SeqLM

from hftrain.config import ModelConfig, RecipeConfig
from hftrain.data.splits import load_splits
from hftrain.models import load

SIZE = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
COLUMNS = {"source": "en", "target": "de"}


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    config = transformers.T5Config(**SIZE, decoder_start_token_id=0)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


# ---- models


def test_entries_are_written_over_the_configuration(t5):
    config = ModelConfig(model_name_or_path=t5, model_config={"dropout_rate": 0.25}, dtype="bfloat16")
    model = load.load_model(config, AutoModelForSeq2SeqLM)
    assert model.config.dropout_rate == 0.25 and model.encoder.dropout.p == 0.25 and model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="configuration of t5 has no 'dropout'; did you mean 'dropout_rate'"):
        load.load_model(ModelConfig(model_name_or_path=t5, model_config={"dropout": 0.1}), AutoModelForSeq2SeqLM)


def test_new_model_needs_no_name():
    model = load.load_model(ModelConfig(), AutoModelForSeq2SeqLM, new=lambda: transformers.T5Config(**SIZE))
    assert model.config.model_type == "t5" and model.dtype == torch.float32


def test_what_cannot_be_loaded(t5, tmp_path):
    nowhere = ModelConfig(model_name_or_path=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"^model_name_or_path '.*nowhere' is not a local folder"):
        load.load_model(nowhere, AutoModelForSeq2SeqLM)
    with pytest.raises(ValueError, match=r"^model_name_or_path '.*nowhere' is not a local folder"):
        load.load_tokenizer(nowhere)
    with pytest.raises(ValueError, match=r"^tokenizer_name_or_path '.*' cannot be loaded from this folder"):
        load.load_tokenizer(ModelConfig(model_name_or_path=t5, tokenizer_name_or_path=str(tmp_path)))
    with pytest.raises(ValueError, match=r"is a t5, which AutoModelForCausalLM does not support"):
        load.load_model(ModelConfig(model_name_or_path=t5), transformers.AutoModelForCausalLM)
    assert load.load_tokenizer(ModelConfig()) is None


def test_a_folder_without_weights_is_named(t5, tmp_path):
    shutil.copytree(t5, tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ValueError, match=r"empty contains no weights \(model.safetensors, .*: give the output folder"):
        load.load_model(ModelConfig(model_name_or_path=str(tmp_path / "empty")), AutoModelForSeq2SeqLM)


def test_weights_that_cannot_be_read_are_named(t5, tmp_path):
    shutil.copytree(t5, tmp_path / "model")
    shard = "model-00001-of-00002.safetensors"
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"shared.weight": shard}}))
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "kept")
    config = ModelConfig(model_name_or_path=str(tmp_path / "model"))
    with pytest.raises(ValueError, match=rf"{index} lists {shard}, which is missing: copy or download it again"):
        load.load_model(config, AutoModelForSeq2SeqLM)
    index.unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"pytorch_model.bin is damaged and cannot be read"):
        load.load_model(config, AutoModelForSeq2SeqLM)


# ---- adapters


def adapted(t5, **settings):
    config = RecipeConfig(train_file="-", model_name_or_path=t5, use_peft=True, **settings)
    return load.add_adapters(load.load_model(config, AutoModelForSeq2SeqLM), config, "SEQ_2_SEQ_LM")


def test_adapters_alone_train_and_in_fp32(t5):
    model = adapted(t5, dtype="bfloat16", lora_r=3, lora_alpha=6, lora_dropout=0.5)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    assert all(p.dtype == torch.bfloat16 for name, p in model.named_parameters() if "lora_" not in name)
    assert {min(p.shape) for p in trained.values()} == {3}
    linear = [n for n, m in model.get_base_model().named_modules() if type(m).__name__ == "Linear" and "lora" not in n]
    assert sum("lora_A" in name for name in trained) == 16 and any("lm_head" in name for name in linear)


def test_adapters_on_named_modules(t5):
    model = adapted(t5, lora_target_modules=["q", "v"])
    assert {name.split(".lora_")[0][-1] for name, p in model.named_parameters() if p.requires_grad} == {"q", "v"}
    with pytest.raises(
        ValueError, match=r"lora_target_modules \['query'\] match no module; the linear layers are .*k, "
    ):
        adapted(t5, lora_target_modules=["q", "query"])


def test_adapters_do_not_hold_what_was_written_over_the_configuration(t5, caplog):
    adapted(t5)
    assert "model_config" not in caplog.text
    adapted(t5, model_config={"dropout_rate": 0.3})
    assert "does not store model_config (dropout_rate)" in caplog.text


def test_without_adapters_the_model_is_as_it_is(t5):
    model = torch.nn.Linear(2, 2)
    assert load.add_adapters(model, RecipeConfig(train_file="-"), "SEQ_2_SEQ_LM") is model


# ---- splits


def table(folder, name, start, stop):
    path = folder / name
    path.write_text("en\tde\n" + "".join(f"source {i}\ttarget {i}\n" for i in range(start, stop)))
    return str(path)


def test_files_are_the_splits(tmp_path, caplog):
    names = {"train_file": (0, 10), "validation_file": (8, 12), "test_file": (20, 25)}
    config = RecipeConfig(**{name: table(tmp_path, f"{name}.tsv", *ends) for name, ends in names.items()})
    rows = load_splits(config, columns=COLUMNS)
    assert {name: len(split) for name, split in rows.items()} == {"train": 10, "validation": 4, "test": 5}
    assert rows["validation"].leaks[:2] == (2, 2) and rows["test"].leaks[:2] == (0, 0)
    assert "leak: 2 of 4 validation rows are in the training rows too" in caplog.text and "test rows" not in caplog.text


def test_splits_are_cut_off_where_files_are_missing(tmp_path):
    train, test = table(tmp_path, "train.tsv", 0, 40), table(tmp_path, "test.tsv", 50, 53)
    config = RecipeConfig(train_file=train, test_file=test, validation_split=0.1, test_split=0.5)
    rows = load_splits(config, columns=COLUMNS, seed=1)
    assert {name: len(split) for name, split in rows.items()} == {"train": 36, "validation": 4, "test": 3}
    again = load_splits(config, columns=COLUMNS, seed=2)
    assert again["validation"]["source"][:] != rows["validation"]["source"][:]
    with pytest.raises(ValueError, match="there are no validation rows: set validation_file, or validation_spl"):
        load_splits(RecipeConfig(train_file=train, validation_split=0), columns=COLUMNS)


def test_splits_of_a_saved_folder(tmp_path):
    part = datasets.Dataset.from_dict({"en": [f"a {i}" for i in range(20)], "de": ["b"] * 20})
    datasets.DatasetDict({"train": part, "test": part.select([3])}).save_to_disk(tmp_path / "both")
    rows = load_splits(RecipeConfig(dataset_name=str(tmp_path / "both"), validation_split=0.05), columns=COLUMNS)
    assert {name: len(split) for name, split in rows.items()} == {"train": 19, "validation": 1, "test": 1}
    datasets.DatasetDict({"dev": part}).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="has no split named train; it has dev"):
        load_splits(RecipeConfig(dataset_name=str(tmp_path / "other")), columns=COLUMNS)
    with pytest.raises(ValueError, match=r"'no/such' is not a local folder and .* on the Hub .*HF_HUB_OFFLINE=1"):
        load_splits(RecipeConfig(dataset_name="no/such"), columns=COLUMNS)
