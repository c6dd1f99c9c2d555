"""Settings that are left open: what is chosen for which data and model, and that a run keeps what it began with."""

import itertools
import json
import math
import re
import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from hftrain import metrics
from hftrain.config import ConfigError, TrainConfig, defaults, parse, printing
from hftrain.config.defaults import LIMITS, Known, cadence, choose, stretched
from hftrain.data.examples import Examples
from hftrain.data.packing import Packed, pack
from hftrain.tasks import chat, pretraining, translation
from hftrain.train import checkpoint, choosing
from hftrain.train.run import Run
from tests import ROOT
from tests.train.resume_worker import BrokenOff, WorkerConfig, break_off, trace, train

TABLE = (ROOT / "docs" / "defaults.md").read_text(encoding="utf-8")
KINDS = {"new": {"new": True}, "whole": {}, "adapters": {"adapters": True}}
TASKS = {"understanding": KINDS, "translation": KINDS, "pretraining": KINDS}
TASKS |= {task: {"whole": {}, "adapters": KINDS["adapters"]} for task in ("chat", "preference", "reward")}
UNITS = {"translation": "global_batch_tokens", "pretraining": "global_batch_tokens"}


def number(text: str) -> float:
    unit = {"M": 1e6, "B": 1e9, "k": 1e3}.get(text[-1], 1)
    return float(text.rstrip("MBk").replace(",", "")) * unit


def documented() -> list[list[str]]:
    """The rows of docs/defaults.md's examples."""
    rows = TABLE[TABLE.index("| task | model |") :].splitlines()[2:]
    cells = (line.strip("| ").split(" | ") for line in itertools.takewhile(lambda line: line.startswith("|"), rows))
    return [list(map(str.strip, row)) for row in cells]


# ---- the rules


@pytest.mark.parametrize("row", documented(), ids=lambda row: " ".join(row[:3]))
def test_what_the_documentation_promises_is_chosen(row):
    task, model, data, batch, epochs, rate, schedule, warmup = row
    kind, size = model.split()
    counted = UNITS.get(task, "global_batch_size")
    amount = {"tokens": int(number(data)), "examples": int(number(data)) // 20} if task in UNITS else {}
    known = Known(task, **({"examples": int(number(data))} | amount), parameters=int(number(size)), **KINDS[kind])
    chosen = {name: choice.value for name, choice in choose(known, {}).items()}
    assert chosen == {
        counted: int(number(batch)), "num_train_epochs": float(epochs), "learning_rate": float(rate),
        "lr_scheduler_type": schedule, "warmup_steps": float(warmup), "metric_for_best_model": "loss",
        "load_best_model_at_end": True,
    }  # fmt: skip


def test_the_rules_are_monotone_and_within_bounds():
    """More data: no smaller batch. A larger model: no higher learning rate."""
    amounts, sizes = [1, 30, 200, 999, 1000, 5000, 20_000, 300_000, 10**7], [10**5, 10**6, 10**7, 10**8, 10**9, 10**11]
    for task, kinds in TASKS.items():
        unit = UNITS.get(task, "global_batch_size")
        for kind in kinds.values():
            found = [choose(Known(task, n, 20 * n, 10**8, **kind), {}) for n in amounts]
            batches, epochs = ([c[name].value for c in found] for name in (unit, "num_train_epochs"))
            assert batches == sorted(batches) and batches[0] >= 8, (task, kind)
            assert 1 <= epochs[-1] <= epochs[0] <= 60
            rates = [choose(Known(task, 1000, 20_000, n, **kind), {})["learning_rate"].value for n in sizes]
            assert rates == sorted(rates, reverse=True), (task, kind)
            low, high = (min(low for low, _ in LIMITS.values()), max(high for _, high in LIMITS.values()))
            assert task == "preference" or low <= rates[-1] <= rates[0] <= high


def test_a_step_holds_the_longest_example():
    known = Known("pretraining", 40, 78_000, 10**6, new=True, longest=2048)
    assert choose(known, {})["global_batch_tokens"].value == 4096


def test_a_step_of_packs_has_as_many_examples_as_without():
    rows = Known("chat", 1000, tokens=100_000, parameters=135_000_000)
    packed = replace(rows, packs=100)
    assert choose(rows, {})["global_batch_size"].value == 16
    assert choose(packed, {})["global_batch_size"] == (2, "1,000 examples in 100 packs")
    assert choose(replace(rows, packs=3), {})["global_batch_size"].value == 1
    for name in ("num_train_epochs", "learning_rate"):
        assert choose(packed, {})[name] == choose(rows, {})[name]
    assert "times 2," in choose(packed, {"global_batch_size": 8})["learning_rate"].reason
    assert "times 2," in choose(packed, {"global_batch_tokens": 8000})["learning_rate"].reason


def test_packs_are_known_to_the_choice(tmp_path):
    model = torch.nn.Linear(1, 1)
    documents = Examples([{"input_ids": [1] * 10}] * 40, [10] * 40)
    config = OpenConfig(output_dir=str(tmp_path / "out"))
    choosing.choose_settings(model, Packed(documents, pack(documents.lengths, 40)), config)
    assert config.chosen_for.startswith("40 examples in 10 packs and") and config.global_batch_size == 4


def test_what_the_user_sets_is_not_chosen_and_the_rate_follows_the_batch():
    known = Known("understanding", 200, 4000, 22_700_000)
    assert choose(known, {})["learning_rate"].value == 1e-4
    for given, batch in (({"global_batch_size": 32}, 32), ({"global_batch_tokens": 640}, 32), ({"max_steps": 7}, 8)):
        chosen = choose(known, given)
        assert not chosen.keys() & given.keys() and chosen["learning_rate"].value == 1e-4 * math.sqrt(batch / 8)
        assert ("num_train_epochs" in chosen) == ("max_steps" not in given)
    assert choose(known, {"global_batch_size": 32})["num_train_epochs"].value == 40
    assert choose(known, {"global_batch_size": 10**6})["learning_rate"].value == 4e-4, "fourfold at most"
    assert choose(known, {"learning_rate": 3e-4, "global_batch_size": 64}).keys().isdisjoint({"learning_rate"})
    stable = {"lr_scheduler_type": "warmup_stable_decay", "decay_steps": 0.95}
    assert choose(known, stable)["warmup_steps"].value == 0.05, "there is no room for more"


def test_few_validation_examples_choose_no_checkpoint():
    few, known = Known("understanding", 200, 4000, 10**6, metric="accuracy", validation=10), "load_best_model_at_end"
    reason = "10 validation examples, under 100, cannot tell checkpoints apart by accuracy: the last is kept"
    assert choose(few, {})[known] == (False, reason)
    assert not choose(replace(few, validation=99), {})[known].value
    for enough in ({"validation": 100}, {"validation": None}, {"metric": "loss"}, {"metric": "eval_perplexity"}):
        assert choose(replace(few, **enough), {})[known].value, enough
    for given in ({"metric_for_best_model": "accuracy"}, {"early_stopping_patience": 3}):
        assert choose(few, given)[known].value, "who names how to choose wants a choice"
    assert known not in choose(few, {known: True})


def test_evaluations_are_few_in_a_short_run_and_take_a_tenth_of_a_long_one():
    for steps, times in ((1, 1), (75, 3), (400, 5), (50_000, 10)):
        every = cadence(steps, {})["eval_steps"].value
        assert math.ceil(steps / every) == times and cadence(steps, {})["save_steps"].value == every
        assert 1 <= cadence(steps, {})["logging_steps"].value <= max(1, steps // 20)
    assert cadence(400, {"eval_steps": 3.0}).keys() == {"save_steps", "logging_steps"}
    assert stretched(10, 0.1, 100.0, 100) == 10 and stretched(10, 2.0, 100.0, 100) == 20
    assert stretched(10, 1000.0, 100.0, 100) == 100, "the last step is always evaluated"
    assert stretched(3, 9.0, 1.0, 1) == 3


# ---- in a run


@dataclass
class OpenConfig(WorkerConfig):
    """All that can be left open is."""

    global_batch_size: int | None = None
    max_steps: int | None = None
    learning_rate: float | None = None  # type: ignore[assignment]
    lr_scheduler_type: Any = None
    warmup_steps: float | None = None
    logging_steps: float | None = None  # type: ignore[assignment]
    eval_steps: float | None = None  # type: ignore[assignment]
    save_steps: float | None = None  # type: ignore[assignment]


def test_a_run_tells_what_it_chose_and_a_resume_keeps_it(tmp_path, capsys, monkeypatch):
    """A later version may have other rules: a run that goes on takes what its checkpoint holds."""
    settings = {"eval_steps": 2, "save_steps": 1, "num_train_epochs": 2.0}
    unbroken = OpenConfig(output_dir=str(tmp_path / "unbroken"), **settings)
    train(unbroken)
    told = capsys.readouterr().out
    assert re.search(r"chosen for 20 examples and [\d,]+ new parameters \(set one to choose otherwise\):", told)
    assert "\n  global_batch_size 16: 20 examples\n" in told and "\n  learning_rate 0.001: a new model\n" in told
    assert "  eval_steps" not in told, "it was set"

    stopped = OpenConfig(output_dir=str(tmp_path / "stopped"), **settings)
    with pytest.raises(BrokenOff):
        train(stopped, break_off(2))
    monkeypatch.setattr(defaults, "usual_rate", lambda known: defaults.Choice(0.5, "another rule"))
    monkeypatch.setattr(defaults, "usual_batch", lambda known: defaults.Choice(3, "another rule"))
    capsys.readouterr()
    resumed = OpenConfig(output_dir=str(tmp_path / "stopped"), resume_from_checkpoint="auto", **settings)
    train(resumed)
    assert "learning_rate 0.001: as the checkpoint has it" in capsys.readouterr().out
    assert (resumed.learning_rate, resumed.global_batch_size) == (1e-3, 16)
    assert trace(tmp_path / "stopped") == trace(tmp_path / "unbroken")
    contract = checkpoint.contract_of(tmp_path / "stopped", "auto")
    assert contract["chosen"]["learning_rate"] == contract["learning_rate"] == 1e-3
    assert "eval_steps" not in contract["chosen"]


def test_a_value_of_ones_own_is_no_choice_and_a_resume_refuses_another(tmp_path):
    with pytest.raises(BrokenOff):
        train(OpenConfig(output_dir=str(tmp_path / "out"), learning_rate=3e-4, save_steps=1), break_off(2))
    again = OpenConfig(output_dir=str(tmp_path / "out"), resume_from_checkpoint="auto", save_steps=1)
    with pytest.raises(ValueError, match=r"learning_rate: 0.0003 when saved, 0.001 now"):
        train(again)


def test_a_checkpoint_without_choices_keeps_its_settings(tmp_path, monkeypatch):
    """Of a version whose defaults were numbers."""
    old = {"learning_rate": 5e-5, "global_batch_size": 32, "global_batch_tokens": None, "total_steps": 12}
    monkeypatch.setattr(checkpoint, "contract_of", lambda *_: old)
    config = OpenConfig(output_dir=str(tmp_path), resume_from_checkpoint="auto")
    defaults.fill(config, Known("understanding", 200, 4000, 10**6), choosing.pinned(config))
    assert (config.learning_rate, config.global_batch_size, config.max_steps) == (5e-5, 32, 12)
    assert config.num_train_epochs is None and config.warmup_steps == 0.1


def test_a_checkpoint_of_before_the_choice_keeps_its_best_model(tmp_path, monkeypatch):
    """Then load_best_model_at_end was true where it was not set, and not among what was chosen."""
    old = {"learning_rate": 5e-5, "load_best_model_at_end": True, "chosen": {"learning_rate": 5e-5}}
    monkeypatch.setattr(checkpoint, "contract_of", lambda *_: old)
    config = OpenConfig(output_dir=str(tmp_path), resume_from_checkpoint="auto")
    few = Known("understanding", 200, 4000, 10**6, metric="accuracy", validation=10)
    defaults.fill(config, few, choosing.pinned(config))
    assert config.load_best_model_at_end is True
    fresh = OpenConfig(output_dir=str(tmp_path))
    defaults.fill(fresh, few, {})
    assert fresh.load_best_model_at_end is False


def test_a_configuration_is_chosen_anew_for_each_run(tmp_path):
    config = TrainConfig(output_dir=str(tmp_path), max_steps=5)
    defaults.fill(config, Known("understanding", 200, 4000, 10**6), {})
    assert config.global_batch_size == 8 and config.chosen["global_batch_size"].value == 8
    config.learning_rate = 0.3
    config.reopen()
    assert config.global_batch_size is None and config.learning_rate == 0.3 and config.max_steps == 5
    assert replace(config, max_steps=6).chosen == {}


def test_a_contradiction_with_what_is_chosen_is_told(tmp_path):
    config = OpenConfig(output_dir=str(tmp_path / "out"), greater_is_better=True)
    with pytest.raises(ConfigError, match="would keep the worst loss: set greater_is_better false"):
        train(config)


def test_the_best_model_is_that_of_the_tasks_own_metric():
    files = {"train_file": "rows.jsonl"}
    assert translation.TranslateConfig(**files).scored_by == "chrf"
    assert translation.TranslateConfig(**files, predict_with_generate=False).scored_by == "loss"
    for config in (pretraining.PretrainConfig, pretraining.PretrainMlmConfig):
        assert config(**files).scored_by == "perplexity"
    assert chat.ChatRecipeConfig(**files, model_name_or_path="a").scored_by == "perplexity"
    best = {
        ("accuracy", "f1_macro"): ("single_label_classification", [0, 1, 1], ["no", "yes"]),
        ("f1_micro", "f1_macro"): ("multi_label_classification", [[0, 1], [1, 0]], ["no", "yes"]),
        ("mse", "pearsonr"): ("regression", [0.0, 1.0, 3.0], []),
        ("seqeval",): ("token_classification", [["B-X", "O"]], []),
        ("squad",): ("question_answering", [["a"], ["b"]], []),
    }
    chosen = [
        metrics.rehearse(names, task, {"test": references}, labels=labels)
        for names, (task, references, labels) in best.items()
    ]
    assert chosen == ["accuracy", "f1_micro", "mse", "f1", "f1"]


def test_the_first_and_the_last_step_are_logged_whatever_is_set(tmp_path):
    train(WorkerConfig(output_dir=str(tmp_path / "out"), max_steps=5, logging_steps=100))
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [row["step"] for row in map(json.loads, lines) if "learning_rate" in row] == [1, 5]


def test_equal_scores_are_told_apart_by_the_loss(tmp_path):
    scores = [{"accuracy": 0.5, "loss": 0.7}, {"accuracy": 0.5, "loss": 0.6}, {"accuracy": 0.5, "loss": 0.65}]
    config = WorkerConfig(output_dir=str(tmp_path / "out"), metric_for_best_model="accuracy", max_steps=3, eval_steps=1)
    best = []

    def scripted(run, evaluate, original=Run.evaluate):
        original(run, lambda model: scores[run.state.step - 1])
        best.append(run.state.best_step)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "evaluate", scripted)
        train(config)
    assert best == [1, 2, 2]


def test_a_slow_evaluation_becomes_rarer_and_stays_so(tmp_path, capsys):
    class SlowConfig(OpenConfig):
        pass

    config = SlowConfig(output_dir=str(tmp_path / "out"), max_steps=12, global_batch_size=4, save_steps=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "weigh", lambda run, name, _, original=Run.weigh: original(run, name, 10.0))
        train(config)
    assert config.eval_steps == 4
    assert "eval_steps is now 12 instead of 4: 10 s each would take over a tenth" in capsys.readouterr().out
    assert checkpoint.read(tmp_path / "out" / "checkpoint-12").state["rarer"] == {"eval_steps": 12}


def test_slow_checkpoints_make_evaluations_rarer_whose_best_models_are_saved(tmp_path, capsys):
    """Each evaluation may find a best model, which is saved whatever `save_steps` is."""

    def weigh(run, name, _, original=Run.weigh):
        original(run, name, 10.0 if name == "save_steps" else 0.0)

    config = OpenConfig(output_dir=str(tmp_path / "out"), max_steps=12, global_batch_size=4)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "weigh", weigh)
        train(config)
    assert "eval_steps is now 12 instead of 4: each may find a best model, which is saved" in capsys.readouterr().out
    assert checkpoint.read(tmp_path / "out" / "checkpoint-12").state["rarer"] == {"eval_steps": 12, "save_steps": 12}
    assert config.chosen["eval_steps"].reason.endswith("; from step 8 on 12")


# ---- --print_config


def printed(config, capsys, monkeypatch, run):
    monkeypatch.setattr(printing, "_OUTPUT", [])
    for name in ("stdout", "excepthook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    printing.ask(config)
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_print_config_shows_what_would_be_chosen(tmp_path, capsys, monkeypatch):
    config = OpenConfig(output_dir=str(tmp_path / "out"), warmup_steps=2)
    text = printed(config, capsys, monkeypatch, lambda: train(config))
    assert "\nlearning_rate: 0.001  # chosen: a new model\n" in text and "\nwarmup_steps: 2.0\n" in text
    assert not (tmp_path / "out").exists()
    (tmp_path / "run.yaml").write_text(text)
    again = parse(OpenConfig, ["--config", str(tmp_path / "run.yaml")])
    assert again == config and again.chosen == {}


def test_print_config_tells_the_rule_where_the_data_cannot_be_read(capsys, monkeypatch):
    def fail():
        try:
            raise ValueError("there is no file rows.csv")
        except ValueError as error:
            sys.excepthook(ValueError, error, error.__traceback__)

    text = printed(TrainConfig(warmup_steps=2), capsys, monkeypatch, fail)
    assert "\nlearning_rate: null  # chosen by the data and the model: lower for larger models" in text
    assert "\nwarmup_steps: 2.0\n" in text
    with pytest.raises(SystemExit):
        parse(TrainConfig, ["--print_config=as_given"])
    assert "\nlearning_rate: null  # chosen by" in capsys.readouterr().out
