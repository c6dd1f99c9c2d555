"""What a user may write, and what each mistake answers."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

from hftrain.config import (
    Config,
    ConfigError,
    DataConfig,
    InsteadOf,
    LoraConfig,
    ModelConfig,
    RecipeConfig,
    TrainConfig,
    above,
    at_least,
    changed,
    parse,
    to_yaml,
)
from hftrain.config.hf_names import HF_NAMES


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

    learning_rate: Annotated[float, above(0, at_most=1)] = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source_lang == "xx":
            raise ConfigError("source_lang", "is not a language")


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


def test_folders_in_the_home_folder(run_yaml, monkeypatch):
    """In a YAML file no shell expands ~."""
    monkeypatch.setenv("HOME", "/home/anna")
    config = parse(RecipeConfig, run_yaml("{train_file: a.csv, output_dir: ~/runs/x, model_name_or_path: ~/minilm}"))
    assert (config.output_dir, config.model_name_or_path) == ("/home/anna/runs/x", "/home/anna/minilm")


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
