"""The reward model: its loss against TRL's and under any cut, and that it learns what is preferred."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, LlamaForSequenceClassification

from hftrain.deploy.merge import merge
from hftrain.tasks.preference import bradley_terry, count_examples, reward_loss
from hftrain.tasks.preference.config import GrpoConfig
from hftrain.tasks.preference.online import load_prompts, reward_function
from hftrain.train.inspect import showing_examples
from tests import tiny
from tests.tasks.preference.test_preference import collate, make_examples
from tests.tasks.preference.test_preference_recipe import write_rows
from tests.tiny import chat_folder, chat_tokenizer


def test_prompts_of_several_files_keep_the_columns_of_all(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text('{"prompt": "one"}\n')
    second.write_text('{"prompt": "two", "answer": "2"}\n{"prompt": "three", "answer": "3"}\n')
    files = [str(first), f"{second}@2"]
    rows = load_prompts(GrpoConfig(train_file=files, model_name_or_path="none", reward_funcs=["x.py:f"]))
    assert [(row["prompt"][0]["content"], row["answer"]) for row in rows] == [
        ("one", None), *[("two", "2")] * 2, *[("three", "3")] * 2,
    ]  # fmt: skip


def make_model() -> LlamaForSequenceClassification:
    shape = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_labels": 1}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, "pad_token_id": 0}
    return tiny.model("LlamaForSequenceClassification", **shape)


def gradients(model) -> torch.Tensor:
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    return found


@pytest.mark.parametrize("center", [0.0, 0.3])
def test_the_loss_equals_trl(tmp_path, center):
    trl = pytest.importorskip("trl")
    model, examples = make_model(), make_examples(5)
    arguments = trl.RewardConfig(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        center_rewards_coefficient=center or None,
    )  # fmt: skip
    texts = Dataset.from_list([{"prompt": "a", "chosen": " few", "rejected": " words"}])
    trainer = trl.RewardTrainer(model, arguments, train_dataset=texts, processing_class=chat_tokenizer())
    model.config.pad_token_id = 0
    rows = [{"chosen_ids": e["first_input_ids"], "rejected_ids": e["second_input_ids"]} for e in examples]
    batch = trainer.data_collator(rows)
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 0)
    expected = trainer.compute_loss(model, batch)
    expected.backward()
    gradient = gradients(model)
    batch = collate(examples)
    found = reward_loss(center).summed(model, batch) / count_examples(batch)
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert float((gradients(model) - gradient).norm()) <= 1e-5 * float(gradient.norm())


def test_the_cut_changes_nothing():
    model, examples = make_model(), make_examples(7)
    whole = reward_loss(0.1).summed(model, collate(examples))
    parts = reward_loss(0.1).summed(model, collate(examples[:3])) + reward_loss(0.1).summed(
        model, collate(examples[3:])
    )
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)


def test_only_differences_matter_without_centering():
    chosen, rejected = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0])
    assert torch.equal(bradley_terry(chosen, rejected), bradley_terry(chosen + 8, rejected + 8))
    assert bradley_terry(chosen + 8, rejected + 8, center=0.1) > bradley_terry(chosen, rejected, center=0.1)


@pytest.mark.parametrize("use_peft", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_recipe_learns(tmp_path, use_peft):
    """It tells good answers from bad ones, and the saved model gives the same rewards."""
    recipe = importlib.import_module("recipes.reward")
    chat_folder(tmp_path / "base", scale=0.1)
    config = recipe.RewardConfig(
        model_name_or_path=str(tmp_path / "base"), train_file=write_rows(tmp_path / "rows.jsonl", "sigmoid", 60),
        output_dir=str(tmp_path / "out"), use_peft=use_peft, global_batch_size=8, validation_split=10, test_split=10,
        max_steps=12, warmup_steps=0, learning_rate=1e-2, save_steps=0, eval_steps=0, max_length=64,
        load_best_model_at_end=False,
    )  # fmt: skip
    results = recipe.main(config)
    assert results["test_accuracy"] >= 0.9 and results["test_reward_margin"] > 0.5
    card = (Path(config.output_dir) / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    said: list[float] = []
    exec(code, {"print": said.append})  # as a reader of the card would paste it
    assert np.isfinite(said[0])
    folder = config.output_dir
    if use_peft:
        folder = str(tmp_path / "merged")
        assert merge(config.output_dir, folder).max_difference < 1e-3
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_labels == 1 and model.score.weight.abs().max() > 0


# ---- GRPO, TRL's loop ----


def test_grpo_hands_over_to_trl(tmp_path, capfd):
    """Two steps: TRL's trainer rewards answers by a function of a file, which gets the row's columns, and a model."""
    pytest.importorskip("trl")
    recipe = importlib.import_module("recipes.grpo")
    chat_folder(tmp_path / "base", scale=0.1)
    make_rewards = 'def longer(prompts, completions, wanted, **_):\n    assert wanted[0] == "1"\n'
    make_rewards += '    return [float(len(completion[0]["content"])) for completion in completions]\n'
    (tmp_path / "rewards.py").write_text(make_rewards)
    rows = [{"prompt": f"some {word}", "wanted": "1"} for word in ("words", "numbers", "more", "few")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = recipe.GrpoConfig(
        model_name_or_path=str(tmp_path / "base"), train_file=str(tmp_path / "rows.jsonl"), use_peft=True,
        output_dir=str(tmp_path / "out"), reward_funcs=[f"{tmp_path / 'rewards.py'}:longer"], max_steps=2,
        global_batch_size=4, num_generations=2, max_new_tokens=6, max_length=64, logging_steps=1,
    )  # fmt: skip
    results = recipe.main(config)
    assert np.isfinite(results["train_loss"]) and (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert "handed over to TRL's GRPOTrainer" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_funcs": []}, "without a reward there is nothing to learn"),
        ({"num_generations": 3}, "must be a multiple"),
        ({"ema_decay": 0.9}, "ema_decay: is not passed on to TRL"),
    ],
)
def test_grpo_settings_that_cannot_be(changes, message):
    recipe = importlib.import_module("recipes.grpo")
    settings = {"model_name_or_path": "x", "use_peft": True, "train_file": "x", "reward_funcs": ["x"]}
    with pytest.raises(ValueError, match=message):
        recipe.GrpoConfig(**settings | changes)


@pytest.mark.parametrize("name", ["none.py:f", f"{__file__}:none"])
def test_rewards_that_are_not_there(name):
    with pytest.raises(ValueError, match="reward_funcs"):
        reward_function(name)


def test_grpo_is_not_inspected():
    """It would have been trained."""
    recipe = importlib.import_module("recipes.grpo")
    with showing_examples(), pytest.raises(ValueError, match="hftrain inspect cannot show"):
        recipe.main(recipe.GrpoConfig(model_name_or_path="x", train_file="x", reward_funcs=["x"]))


def test_an_adapter_is_no_reward_for_trl(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter, and TRL does not load its head: run hftrain merge"):
        reward_function(str(tmp_path))
