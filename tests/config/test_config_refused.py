"""What a user must not write, and the answer to each mistake."""

from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path

import pytest

from hftrain.config import (
    ConfigError,
)
from tests.config.test_config import SearchConfig, TranslateConfig, errors

# --- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate: 1", ":1: lerning_rate: unknown; did you mean learning_rate?"),
        ("learning-rate: 1", ":1: learning-rate: unknown; did you mean learning_rate?"),
        ("zzzzz: 1", ":1: zzzzz: unknown; --help lists the settings"),
        ("1: 1", ":1: 1: unknown; --help lists the settings"),
        ("num_beams: 1", ":1: num_beams: misplaced: write it as search.num_beams"),
        ("search:\n  seed: 1", ":2: search.seed: misplaced: write it as seed"),
        ("search:\n  num_beens: 1", ":2: search.num_beens: unknown; did you mean search.num_beams?"),
        ("train:\n  seed: 1", ":1: train: unknown; its keys belong elsewhere: seed"),
        ("search: 3", ":1: search: is a group of settings: write them one by one below it"),
        ("search.num_beams: 3", ":1: search.num_beams: dots are for the command line; in YAML, write nested keys"),
        ("seed:\n  value: 1", ":1: seed: must be int of at least 0, not {'value': 1} (dict)"),
        ("learning_rate: fast", ":1: learning_rate: must be float above 0 and at most 1, not 'fast' (str)"),
        ("learning_rate: '1e-4'", ":1: learning_rate: must be float above 0 and at most 1, not '1e-4' (str)"),
        ("learning_rate: 2", ":1: learning_rate: must be float above 0 and at most 1, not 2.0"),
        ("weight_decay: .inf", ":1: weight_decay: must be float of at least 0, not inf"),
        ("weight_decay: .nan", ":1: weight_decay: must be float of at least 0, not nan"),
        ("weight_decay: -0.1", ":1: weight_decay: must be float of at least 0, not -0.1"),
        ("weight_decay: true", ":1: weight_decay: must be float of at least 0, not True (bool)"),
        ("seed: true", ":1: seed: must be int of at least 0, not True (bool)"),
        ("seed:", ":1: seed: must be int of at least 0, not null"),
        ("max_steps: 1.5", ":1: max_steps: must be int of at least 1, or null, not 1.5"),
        ("max_steps: -1", ":1: max_steps: must be int of at least 1, or null, not -1"),
        ("warmup_steps: 1.5", ":1: warmup_steps: must be float that is a share under 1 or a whole number, or null, not 1.5"),  # noqa: E501
        ("bf16: 'false'", ":1: bf16: must be true or false, not 'false' (str)"),
        ("bf16: no", ":1: bf16: must be true or false, not 'no' (str)"),
        ("bf16: 0", ":1: bf16: must be true or false, not 0"),
        ("run_name: 2024", ":1: run_name: must be str, or null, not 2024; quote it"),
        ("optim: adamw", ":1: optim: must be adamw_torch | adamw_8bit | adafactor | muon, not 'adamw' (str); did you mean adamw_torch?"),  # noqa: E501
        ("report_to: wandb", ":1: report_to: must be list of tensorboard | wandb | mlflow | trackio, not 'wandb' (str)"),  # noqa: E501
        ("report_to:\n- wanbd", ":1: report_to: must be tensorboard | wandb | mlflow | trackio, not 'wanbd' (str); did you mean wandb?"),  # noqa: E501
        ("model_config: [1]", ":1: model_config: must be mapping, not [1] (list)"),
        ("model_config: {1: 2}", ":1: model_config: must be mapping, not {1: 2} (dict)"),
        ("seed: 1\nbf16: true\nseed: 1", ":3: seed: given twice, first at run.yaml:1"),
        ("search:\n  num_beams: 1\nsearch:\n  max_length: 9", ":3: search: given twice, first at run.yaml:1"),
        ("model_config:\n  b: {c: 1,\n    c: 1}", ":3: model_config: 'c' is given twice, first in line 2"),
        ("model_config:\n  <<: {a: 1}", ":2: model_config: '<<' is not supported"),
        ("bf16: true\nseed: !!python/name:os.system ''", ":2: config: cannot be read: the tag tag:yaml.org,2002:python/name:os.system is not supported"),  # noqa: E501
        ("bf16: !!bool x", ":1: config: cannot be read: the tag tag:yaml.org,2002:bool is not supported"),
        ("seed: [1", ":1: config: cannot be read: expected ',' or ']', but got '<stream end>'"),
        ("seed: 1\n\tx: 1", ":2: config: cannot be read: found character '\\t' that cannot start any token"),
        ("seed: 1\n---\nseed: 2", ":2: config: cannot be read: but found another document"),
        ("model_config:\n  a: " + "[" * 100_000, ":2: config: cannot be read: nested more than 100 levels deep"),
        ("- seed: 1", ":1: config: must be lines of the form key: value"),
        ("seed: 1\nrun_name: \x07", ": config: cannot be read: the character 0x7 is not allowed"),
        (b"seed: 1\nrun_name: \xe9\n", ":2: config: is not UTF-8"),
        ("source_lang: xx", ":1: source_lang: is not a language"),
        ("search: {max_length: 2}", ":1, default: search.max_length and search.num_beams: are too close"),
        ("search: {max_length: 9, budget: 9}", ":1: search.max_length and search.budget: are two ways to say one thing: give one of them"),  # noqa: E501
    ],
)  # fmt: skip
def test_each_mistake_in_the_file_is_named_with_its_line(run_yaml, text, message):
    assert errors(run_yaml(text)) == ["run.yaml" + message]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lerning-rate", "1"], "lerning_rate: unknown; did you mean learning_rate?"),
        (["--num_beams", "1"], "num_beams: misplaced: write it as search.num_beams"),
        (["--seed.x", "1"], "seed.x: seed is int of at least 0, so it cannot contain keys"),
        (["--search", "1"], "search: is a group of settings: write them one by one below it"),
        (["--seed"], "seed: needs exactly one value, not none"),
        (["--seed", "1", "2"], "seed: needs exactly one value, not 1 2"),
        (["--seed", "x"], "seed: must be int of at least 0, not 'x' (str)"),
        (["--seed", "-1"], "seed: must be int of at least 0, not -1"),
        (["--seed", "1", "--seed", "1"], "seed: given twice"),
        (["--bf16", "--no_bf16"], "bf16: given twice"),
        (["--bf16", "yes"], "bf16: must be true or false, not 'yes' (str)"),
        (["--no_bf16", "true"], "bf16: needs exactly one value, not false true"),
        (["--no_seed"], "no_seed: unknown; did you mean seed?"),
        (["--model_config", "{a"], "model_config: expected ',' or '}', but got '<stream end>'"),
        (["--seed", "\x07"], "seed: the character 0x7 is not allowed"),
        (["--report_to", "wandb,x"], "report_to: must be tensorboard | wandb | mlflow | trackio, not 'x' (str)"),
        (["run.yaml"], "run.yaml: has no option before it; write --config run.yaml"),
        (["-x"], "-x: has no option before it; write --name -x"),
        (["--config", "none.yaml"], "config: none.yaml: No such file or directory"),
        (["--config"], "config: needs exactly one value, not none"),
        (["--config", "a.yaml", "--config", "b.yaml"], "config: given twice"),
        (["--bf16", "--fp16"], "bf16 and fp16: contradict each other: set one of them"),
    ],
)
def test_each_mistake_on_the_command_line_is_named(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"command line: {message}" in errors(words)


def test_all_mistakes_are_reported_together(run_yaml):
    words = run_yaml(
        "learning_rate: x\nbf16: 'false'\nglobal_batch_size: 3\nglobal_batch_tokens: 3\nevaluation_strategy: no\n"
    )
    found = errors([*words, "--no_bf16", "--optm", "muon", "--use_peft", "--lora_target_modules", "none"])
    assert [line.split(": ")[1] for line in found] == [
        "learning_rate",
        "bf16",  # also when the command line says otherwise
        "evaluation_strategy",
        "optm",
        "global_batch_size and global_batch_tokens",
        "lora_target_modules and use_peft",
    ]


def test_a_misspelt_setting_does_not_also_contradict(run_yaml):
    """Misspelt, or with a wrong value, it stands at its default: what follows from that is no mistake of the user's."""
    for wrong in ("greater_is_beter: true", "greater_is_better: 'true'"):
        assert len(errors(run_yaml(f"metric_for_best_model: charm\n{wrong}\n"))) == 1


@pytest.mark.parametrize(
    ("given", "keys", "reason"),
    [
        ({"bf16": True, "fp16": True}, ["bf16", "fp16"], "contradict each other"),
        ({"dataset_name": None}, ["dataset_name", "train_file"], "nothing to train on"),
        ({"test_file": "x.csv"}, ["test_file", "dataset_name"], "test_file needs train_file"),
        ({"load_in_4bit": True}, ["load_in_4bit", "use_peft"], "set use_peft too"),
        ({"lora_r": 8}, ["lora_r", "use_peft"], "all weights would be trained: set use_peft too, or neither"),
        ({"eval_steps": 0, "early_stopping_patience": 2}, ["early_stopping_patience", "eval_steps"], "at the end"),
        (
            {"metric_for_best_model": "bleu", "greater_is_better": False},
            ["metric_for_best_model", "greater_is_better"],
            "set greater_is_better true",
        ),
        ({"metric_for_best_model": "charm"}, ["metric_for_best_model", "greater_is_better"], "is not known"),
        ({"warmup_steps": 100, "max_steps": 50}, ["warmup_steps", "max_steps"], "more steps than the run has"),
        (
            {"warmup_steps": 0.9, "lr_scheduler_type": "warmup_stable_decay"},
            ["warmup_steps", "decay_steps"],
            "more steps than the run has",
        ),
    ],
)
def test_contradictions(given, keys, reason, run_yaml):
    with pytest.raises(ConfigError, match=re.escape(reason)) as in_python:
        TranslateConfig(**given)
    assert list(in_python.value.keys) == keys
    (line,) = errors(
        run_yaml(
            "\n".join(
                f"{k}: {'null' if v is None else str(v).lower() if isinstance(v, bool) else v}"
                for k, v in given.items()
            )
        )
    )
    assert line.split(": ", 1)[1] == str(in_python.value)
    assert "run.yaml:1" in line.split(": ")[0]


def test_settings_that_go_together_are_accepted():
    assert TranslateConfig(metric_for_best_model="bleu", greater_is_better=True).higher_is_better
    assert TranslateConfig(metric_for_best_model="eval_bleu").higher_is_better
    assert TranslateConfig(metric_for_best_model="charm", greater_is_better=True).higher_is_better
    assert not TranslateConfig().higher_is_better
    TranslateConfig(lr_scheduler_type="warmup_stable_decay", warmup_steps=0.8, decay_steps=0.2, max_steps=10)
    TranslateConfig(warmup_steps=50, max_steps=50)
    TranslateConfig(train_file="a", test_file="b")
    TranslateConfig(use_peft=True, load_in_4bit=True)


def test_construction_in_python_checks_the_same():
    with pytest.raises(ConfigError) as caught:
        TranslateConfig(learning_rate="x", seed=-1, bf16="false")
    # as the fields stand in the dataclass, bases first
    assert str(caught.value).splitlines() == [
        "seed: must be int of at least 0, not -1",
        "learning_rate: must be float above 0 and at most 1, not 'x' (str)",
        "bf16: must be true or false, not 'false' (str)",
    ]
    assert caught.value.key == "seed"
    assert isinstance(caught.value, ValueError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(ConfigError, match="num_beams"):
        SearchConfig(num_beams=0)
    with pytest.raises(ConfigError, match="search: must be SearchConfig, not 3"):
        TranslateConfig(search=3)
    with pytest.raises(ConfigError, match="contradict"):
        dataclasses.replace(TranslateConfig(bf16=True), fp16=True)
    assert TranslateConfig(output_dir=Path("a") / "b").output_dir == "a/b"
    assert isinstance(TranslateConfig(num_train_epochs=2).num_train_epochs, float)
