"""Configurations as they are printed, their help, and programs that read them."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from hftrain.config import (
    Config,
    ConfigError,
    DataConfig,
    LoraConfig,
    ModelConfig,
    TrainConfig,
    parse,
    to_yaml,
)
from tests import ROOT
from tests.config.test_config import SearchConfig, TranslateConfig

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

    for _ in range(20):
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
        "--learning_rate\n      Peak learning rate; null: chosen. (float above 0 and at most 1; default 0.001)"
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
