"""What a user may write, and what each mistake answers."""

from __future__ import annotations

import dataclasses
import os
import pickle
import random
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from hftrain.config import (
    Config,
    ConfigError,
    DataConfig,
    InsteadOf,
    LoraConfig,
    ModelConfig,
    Must,
    TrainConfig,
    above,
    at_least,
    changed,
    parse,
    to_yaml,
)
from hftrain.config.hf_names import HF_NAMES
from tests import ROOT


@dataclass
class SearchConfig(Config):
    """How to search."""

    num_beams: Annotated[int, at_least(1)] = 4
    """Hypotheses kept."""

    max_length: int | None = None
    """Longest hypothesis, in tokens."""

    budget: Annotated[int | None, InsteadOf("max_length")] = None
    """Seconds for a hypothesis."""

    def checks(self):
        yield from super().checks()
        if self.max_length is not None and self.max_length < self.num_beams:
            yield ("max_length", "num_beams"), "are too close"


@dataclass
class TranslateConfig(DataConfig, ModelConfig, LoraConfig, TrainConfig):
    """Translate text."""

    dataset_name: str | None = "cldr"
    """Data set."""

    source_lang: str = "en"
    """Language to translate from."""

    language_pairs: list[int] = field(default_factory=list)

    search: SearchConfig = field(default_factory=lambda: SearchConfig(num_beams=5))

    learning_rate: Annotated[float, above(0), Must("of 1 at most", lambda value: value <= 1)] = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source_lang == "xx":
            raise ConfigError("source_lang", "is not a language")


@pytest.fixture
def run_yaml(tmp_path, monkeypatch):
    """Write run.yaml in an empty folder; return the words that use it."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes) -> list[str]:
        Path("run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["--config", "run.yaml"]

    return write


def errors(words: list[str], cls: type[Config] = TranslateConfig) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(cls, words)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    return str(caught.value).splitlines()


# --- What is accepted ------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_recommended_run():
    config = parse(TranslateConfig, [])
    assert config == TranslateConfig()
    assert (config.global_batch_size, config.dataset_name, config.search.num_beams) == (None, "cldr", 5)
    assert changed(config) == {}


def test_the_command_line_is_above_the_file_and_the_file_above_the_defaults(run_yaml):
    words = run_yaml("seed: 1\nlearning_rate: 1e-4\nsearch:\n  num_beams: 3\n")
    config = parse(TranslateConfig, [*words, "--seed", "2", "--search.max_length", "50"])
    assert (config.seed, config.learning_rate, config.search) == (2, 1e-4, SearchConfig(3, 50))
    assert changed(config) == {"seed": 2, "learning_rate": 1e-4, "search.num_beams": 3, "search.max_length": 50}


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--learning_rate", "3e-4"], "learning_rate", 3e-4),
        (["--learning-rate=3e-4"], "learning_rate", 3e-4),
        (["--learning_rate", "1"], "learning_rate", 1.0),
        (["--max_steps", "1e3"], "max_steps", 1000),
        (["--max_steps", "010"], "max_steps", 10),
        (["--bf16"], "bf16", True),
        (["--bf16", "true"], "bf16", True),
        (["--bf16=False"], "bf16", False),
        (["--no_load_best_model_at_end"], "load_best_model_at_end", False),
        (["--no-load-best-model-at-end"], "load_best_model_at_end", False),
        (["--run_name", "1e-4"], "run_name", "1e-4"),
        (["--run_name", "a=b: c"], "run_name", "a=b: c"),
        (["--run_name=--x"], "run_name", "--x"),
        (["--run_name", ""], "run_name", ""),
        (["--source_lang", "no"], "source_lang", "no"),
        (["--source_lang", "null"], "source_lang", "null"),
        (["--ema_decay", "null"], "ema_decay", None),
        (["--model_revision", "1234"], "model_revision", "1234"),
        (["--report_to", "wandb", "trackio"], "report_to", ["wandb", "trackio"]),
        (["--report_to", "wandb,trackio"], "report_to", ["wandb", "trackio"]),
        (["--report_to", "none"], "report_to", []),
        (["--report_to"], "report_to", []),
        (["--language_pairs", "1", "2,3"], "language_pairs", [1, 2, 3]),
        (["--model_config.a.b", "1e-4", "--model-config.c-d", "no"], "model_config", {"a": {"b": 1e-4}, "c-d": "no"}),
        (["--model_config.b", "2", "--model_config", "{a: 1}"], "model_config", {"a": 1, "b": 2}),
    ],
)
def test_spellings_of_the_command_line(words, name, value):
    result = getattr(parse(TranslateConfig, words), name)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E+2", 100.0),
        (".5", 0.5),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("y", "y"),
        ("TRUE", True),
        ("'true'", "true"),
        ("~", None),
        ("", None),
        ("NULL", None),
        ("[1, b]", [1, "b"]),
    ],
)
def test_yaml_is_that_of_version_1_2(run_yaml, text, value):
    result = parse(TranslateConfig, run_yaml(f"model_config:\n  x: {text}\n")).model_config["x"]
    assert result == value
    assert type(result) is type(value)


def test_norwegian_is_a_language(run_yaml):
    assert parse(TranslateConfig, run_yaml("source_lang: no\n")).source_lang == "no"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeffseed: 42\n", '{"seed": 42, "bf16": false}'])
def test_files_without_news(run_yaml, text):
    assert parse(TranslateConfig, run_yaml(text)) == TranslateConfig()


def test_a_mapping_in_the_file_replaces_the_default_and_entries_add_to_it(run_yaml):
    @dataclass
    class Deep(ModelConfig):
        model_config: dict[str, Any] = field(default_factory=lambda: {"a": 1, "b": {"c": 2}})

    assert parse(Deep, ["--model_config.b.d", "3"]).model_config == {"a": 1, "b": {"c": 2, "d": 3}}
    words = run_yaml("model_config:\n  b: {e: 4}\n")
    assert parse(Deep, [*words, "--model_config.b.d", "3"]).model_config == {"b": {"e": 4, "d": 3}}
    assert Deep().model_config == {"a": 1, "b": {"c": 2}}


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
        ("learning_rate: fast", ":1: learning_rate: must be float above 0 of 1 at most, not 'fast' (str)"),
        ("learning_rate: '1e-4'", ":1: learning_rate: must be float above 0 of 1 at most, not '1e-4' (str)"),
        ("learning_rate: 2", ":1: learning_rate: must be float above 0 of 1 at most, not 2.0"),
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
        "learning_rate: must be float above 0 of 1 at most, not 'x' (str)",
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


# --- Two ways to say one thing ---------------------------------------------------------------------------------------

PAIRS = [
    ("global_batch_size", "16", "global_batch_tokens", "4096"),
    ("micro_batch_size", "4", "micro_batch_tokens", "512"),
    ("num_train_epochs", "2.0", "max_steps", "100"),
    ("dataset_name", "opus", "train_file", "a.csv"),
]


@pytest.mark.parametrize(("first", "one", "second", "two"), PAIRS)
def test_of_a_pair_the_higher_level_decides(run_yaml, first, one, second, two):
    def both(config):
        values = (getattr(config, first), getattr(config, second))
        return [value and str(value[0] if isinstance(value, list) else value) for value in values]

    assert both(parse(TranslateConfig, [f"--{second}", two])) == [None, two]
    assert both(parse(TranslateConfig, run_yaml(f"{second}: {two}"))) == [None, two]
    assert both(parse(TranslateConfig, [*run_yaml(f"{second}: {two}"), f"--{first}", one])) == [one, None]
    assert both(parse(TranslateConfig, [*run_yaml(f"{first}: {one}"), f"--{second}", two])) == [None, two]
    assert both(parse(TranslateConfig, run_yaml(f"{first}: {one}\n{second}: null"))) == [one, None]
    same = f"{first} and {second}: are two ways to say one thing: give one of them"
    assert errors(run_yaml(f"{first}: {one}\n{second}: {two}")) == [f"run.yaml:1, run.yaml:2: {same}"]
    assert errors([f"--{first}", one, f"--{second}", two]) == [f"command line: {same}"]


def test_in_python_the_second_of_a_pair_wins():
    config = TranslateConfig(global_batch_size=16, global_batch_tokens=4096)
    assert (config.global_batch_size, config.global_batch_tokens) == (None, 4096)


def test_a_recipe_may_prefer_the_second_of_a_pair(run_yaml):
    @dataclass
    class Tokens(TrainConfig):
        global_batch_tokens: Annotated[int | None, InsteadOf("global_batch_size")] = 4096

    assert Tokens().global_batch_size is None
    assert changed(parse(Tokens, [])) == {}
    config = parse(Tokens, ["--global_batch_size", "16"])
    assert (config.global_batch_size, config.global_batch_tokens) == (16, None)
    assert parse(Tokens, run_yaml(to_yaml(config))) == config


# --- Names of transformers -------------------------------------------------------------------------------------------

BATCH = "set global_batch_size (what one optimizer step sees, on all devices), and micro_batch_size for memory only"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("per_device_train_batch_size", BATCH),
        ("gradient_accumulation_steps", BATCH),
        ("per_device_eval_batch_size", "set eval_batch_size"),
        ("gradient_checkpointing", "set activation_checkpointing"),
        ("warmup_ratio", "set warmup_steps (under 1: a share of all steps)"),
        ("evaluation_strategy", "set eval_steps (under 1: a share of the run; 0: only at the end)"),
        ("lr", "set learning_rate"),
        ("deepspeed", "belongs to the launcher: accelerate launch --config_file FILE"),
        ("torch_dtype", "set dtype for the weights, bf16: true for the arithmetic"),
    ],
)  # fmt: skip
def test_a_name_of_transformers_is_answered_with_ours(run_yaml, name, answer):
    assert errors(run_yaml(f"\n{name}: 1")) == [f"run.yaml:2: {name}: {answer}"]
    assert errors([f"--{name.replace('_', '-')}", "1"]) == [f"command line: {name}: {answer}"]


def test_every_training_argument_of_transformers_is_ours_or_is_answered():
    from transformers import Seq2SeqTrainingArguments

    theirs = {each.name for each in dataclasses.fields(Seq2SeqTrainingArguments)}
    ours = {each.name for each in dataclasses.fields(TranslateConfig)}
    assert theirs - ours - set(HF_NAMES) == set()
    shared = theirs & ours
    assert {"learning_rate", "warmup_steps", "max_grad_norm", "seed", "report_to", "ddp_timeout"} <= shared


def test_answers_name_settings_that_exist():
    ours = {each.name for each in dataclasses.fields(TranslateConfig)}
    assert not ours & set(HF_NAMES)
    for name, answer in HF_NAMES.items():
        for wanted in re.findall(r"\bset ([a-z]+_[a-z0-9_]+|optim|dtype|bf16)", answer):
            assert wanted in ours, (name, wanted)


# --- Round trip, help, the program -----------------------------------------------------------------------------------


def test_what_is_printed_reads_back_equal(run_yaml, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(TranslateConfig, ["--print_config", "--source_lang", "no", "--max_steps", "7", "--search.num_beams", "2"])
    assert ended.value.code == 0
    config = parse(TranslateConfig, run_yaml(capsys.readouterr().out))
    assert (config.source_lang, config.max_steps, config.num_train_epochs, config.search.num_beams) == (
        "no",
        7,
        None,
        2,
    )
    words = [
        "no",
        "yes",
        "on",
        "1e-4",
        "1_000",
        "010",
        "0o17",
        "0x1f",
        "null",
        "~",
        "true",
        "1:30",
        "<<",
        "=",
        "-",
        ".5",
    ]
    words += [
        "",
        "2024-01-01",
        " a ",
        "a: b",
        "# x",
        "'",
        '"',
        "é\n☃",
        "\u2028",
        "{",
        "- x",
        "%",
        "@x",
        "!x",
        "&a",
        "*a",
    ]
    for word in words:
        config = TranslateConfig(
            run_name=word, use_peft=True, model_name_or_path=word, lora_target_modules=[word], model_config={word: word}
        )
        assert parse(TranslateConfig, run_yaml(to_yaml(config))) == config, word


def test_random_configurations_read_back_equal(run_yaml):
    draw = random.Random(0)

    def value(depth: int = 0) -> Any:
        kinds = [
            lambda: draw.choice([True, False, None]),
            lambda: draw.randint(-(10**12), 10**12),
            lambda: draw.uniform(-1, 1) * 10.0 ** draw.randint(-20, 20),
            lambda: "".join(draw.choice("01eExo:._-+ #'\"\n\ttrunéß☃[]{},&*!%@") for _ in range(draw.randint(0, 8))),
            lambda: [value(depth + 1) for _ in range(draw.randint(0, 3))],
            lambda: {value_text(): value(depth + 1) for _ in range(draw.randint(0, 3))},
        ]
        return draw.choice(kinds[: 4 if depth > 2 else 6])()

    def value_text() -> str:
        return "".join(draw.choice("abno019e-.:~ ") for _ in range(draw.randint(0, 6)))

    for _ in range(60):
        config = TranslateConfig(
            learning_rate=draw.random() + 1e-9,
            warmup_steps=draw.choice([0, draw.random(), draw.randint(1, 99)]),
            output_dir=value_text(),
            resume_allow=[value_text() for _ in range(draw.randint(0, 3))],
            model_config={"x": value()},
            search=SearchConfig(num_beams=draw.randint(1, 9)),
        )
        assert parse(TranslateConfig, run_yaml(to_yaml(config))) == config, config
        for name, text in (("output_dir", config.output_dir), ("learning_rate", str(config.learning_rate))):
            assert str(getattr(parse(TranslateConfig, [f"--{name}={text}"]), name)) == text


def test_help_groups_settings_by_the_class_that_declares_them(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        parse(TranslateConfig, ["--help", "--nonsense"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    heads = re.findall(r"^(\w+): ", text, re.MULTILINE)
    assert " ".join(heads) == "usage TranslateConfig DataConfig ModelConfig LoraConfig TrainConfig SearchConfig"
    groups = dict(zip(heads, re.split(r"^\w+: ", text, flags=re.MULTILINE)[1:], strict=True))
    assert "--source_lang\n      Language to translate from. (str; default en)" in groups["TranslateConfig"]
    assert "--search.num_beams\n      Hypotheses kept. (int of at least 1; default 5)" in groups["SearchConfig"]
    # the recipe changed the default, the meaning still comes from the class that declares the field
    assert (
        "--learning_rate\n      Peak learning rate; null: chosen. (float above 0 of 1 at most; default 0.001)"
        in groups["TrainConfig"]
    )
    assert "(int of at least 1, or null; instead of global_batch_size; default null)" in " ".join(
        groups["TrainConfig"].split()
    )
    assert "(list of str; default [all-linear])" in groups["LoraConfig"]
    assert "(mapping; default {})" in groups["ModelConfig"]


def test_every_shared_setting_has_a_help_text():
    from hftrain.config.help import written

    for cls in (DataConfig, ModelConfig, LoraConfig, TrainConfig):
        about, docs = written(cls)
        assert about
        declared = {each.name for each in dataclasses.fields(cls)}
        assert {name for name, text in docs.items() if text} == declared


def test_a_program_answers_a_mistake_without_a_traceback(tmp_path):
    script = tmp_path / "recipe.py"
    script.write_text("from hftrain.config import TrainConfig, parse\nprint(parse(TrainConfig).seed)\n")

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, timeout=60)

    wrong = run("--sede", "3", "--lr", "1")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.splitlines() == [
        "command line: sede: unknown; did you mean seed?",
        "command line: lr: set learning_rate",
        "recipe.py --help lists all settings.",
    ]
    assert (run("--seed", "3").stdout, run("--help").returncode) == ("3\n", 0)


def test_reading_a_configuration_imports_nothing_heavy():
    code = "import sys, hftrain.config; print({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


def test_a_choice_is_checked_in_python_too():
    @dataclass
    class Choice(Config):
        kind: Literal["a", "b"] = "a"

    with pytest.raises(ConfigError, match=r"kind: must be a \| b, not 'c' \(str\)"):
        Choice(kind="c")


def test_a_setting_of_two_types_is_refused_when_the_class_is_used():
    @dataclass
    class Two(Config):
        both: int | str = 1

    with pytest.raises(TypeError, match="a setting has one type"):
        Two()


@pytest.mark.parametrize(
    ("mistake", "traced"),
    [
        ("parse(TrainConfig, ['--max_step', '3'])", False),  # hftrain says what to do
        ("parse(TrainConfig, [None])", True),  # a fault in hftrain
        ("int('three')", True),  # a fault elsewhere
        ("from hftrain.report.progress import Progress; Progress(1)._draw()", True),  # an assert
    ],
)
@pytest.mark.parametrize("asked", [False, True])
def test_an_error_with_a_message_of_ours_ends_a_recipe_without_a_traceback(tmp_path, mistake, traced, asked):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f"from hftrain.config import TrainConfig, parse\nparse(TrainConfig)\n{mistake}\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"HFTRAIN_TRACEBACK": "1"} if asked else {})
    done = subprocess.run([sys.executable, recipe], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert ("Traceback" in done.stderr) == (traced or asked)
    if not (traced or asked):
        assert done.stderr == "recipe.py: command line: max_step: unknown; did you mean max_steps?\n"


def test_a_groups_switch_that_is_on_by_default_can_be_turned_off():
    @dataclass
    class Tuned(Config):
        lora: LoraConfig = field(default_factory=lambda: LoraConfig(use_peft=True, lora_r=8, load_in_4bit=True))

    assert parse(Tuned, []).lora.lora_r == 8
    for words in (["--lora.use_peft", "false"], ["--no_lora.use_peft"]):
        config = parse(Tuned, words)
        assert config.lora == LoraConfig()
    with pytest.raises(ConfigError, match=r"lora.lora_r and lora.use_peft: adapters are off"):
        parse(Tuned, ["--lora.use_peft", "false", "--lora.lora_r", "4"])


def test_what_takes_long_to_check_is_checked_last():
    asked = []

    @dataclass
    class Late(Config):
        size: int = 1

        def late_checks(self):
            asked.append(self.size)
            if self.size > 2:
                yield ("size",), "is too much"

    with pytest.raises(ConfigError, match="siz: unknown"):
        parse(Late, ["--siz", "3"])
    assert asked == []
    with pytest.raises(ConfigError, match="size: is too much"):
        parse(Late, ["--size", "3"])
    assert parse(Late, ["--size", "2"]).size == 2 and asked == [3, 2]
