"""The preference recipe: it learns by every loss, on one process and on two."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from hftrain import cli
from hftrain.config import changed
from hftrain.tasks.preference import scoring as training
from tests import ROOT
from tests.programs import launcher
from tests.programs import run as run_program
from tests.tiny import chat_folder

# ---- the recipe ----

WORDS = ["some", "words", "and", "numbers", "of", "no", "weight", "1", "2", "3", "more", "few"]


def write_rows(path, loss_type: str, count: int = 40) -> str:
    """Preferences that can be learnt: good answers end in a number, bad ones in a word."""
    draw, lines = np.random.default_rng(0), []
    for _ in range(count):
        asked, said = " ".join(draw.choice(WORDS, 3)), " ".join(draw.choice(WORDS, draw.integers(1, 4)))
        answers = {"chosen": f"{said} 1 2 3", "rejected": f"{said} of weight"}
        if loss_type == "kto":
            good = bool(draw.integers(2))
            answers = {"completion": answers["chosen" if good else "rejected"], "label": good}
        lines.append(json.dumps({"prompt": asked, **answers}))
    path.write_text("\n".join(lines))
    return str(path)


def make_config(tmp_path, **changes):
    recipe = importlib.import_module("recipes.preference")
    loss_type = changes.get("loss_type", "sigmoid")
    settings = {"model_name_or_path": str(tmp_path / "base"), "output_dir": str(tmp_path / "out"), "use_peft": True}
    settings |= {"train_file": write_rows(tmp_path / f"{loss_type}.jsonl", loss_type), "global_batch_size": 8}
    settings |= {"validation_split": 8, "test_split": 8, "max_steps": 6, "warmup_steps": 0, "learning_rate": 1e-2}
    settings |= {"save_steps": 0, "eval_steps": 0, "eval_on_start": True, "load_best_model_at_end": False}
    settings |= {"max_length": 64}
    return recipe.PreferenceRecipeConfig(**settings | changes)


def run(config) -> tuple[dict, list[dict]]:
    results = importlib.import_module("recipes.preference").main(config)
    return results, [json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("loss_type", ["sigmoid", "kto"])
def test_the_recipe_learns(tmp_path, loss_type):
    chat_folder(tmp_path / "base", scale=0.1)
    results, history = run(make_config(tmp_path, loss_type=loss_type))
    assert history[0]["eval_reward_margin"] == pytest.approx(0, abs=1e-6)  # the start is the reference
    assert results["eval_reward_margin"] > 0.05 and results["eval_loss"] < history[0]["eval_loss"]
    assert results["test_reward_accuracy"] > 0.6
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file() and (tmp_path / "out" / "README.md").is_file()


def test_what_is_undefined_is_left_out_of_ktos_evaluation(tmp_path, caplog):
    chat_folder(tmp_path / "base", scale=0.1)
    test = [{"prompt": "some words", "completion": f"{word} of weight", "label": False} for word in WORDS]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, test)))
    results, _ = run(make_config(tmp_path, loss_type="kto", test_file=str(tmp_path / "test.jsonl"), max_steps=1))
    assert "test_reward_rejected" in results
    assert not {"test_reward_margin", "test_reward_chosen", "test_logps_chosen"} & set(results)
    assert "none of the 12 rows of an evaluation has a good answer" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["ipo", "simpo", "orpo"])
def test_the_recipe_learns_by_every_loss(tmp_path, loss_type):
    chat_folder(tmp_path / "base", scale=0.1)
    results, history = run(make_config(tmp_path, loss_type=loss_type, use_peft=False, learning_rate=3e-3))
    assert results["eval_loss"] < history[0]["eval_loss"]
    assert results["eval_reward_margin"] > history[0]["eval_reward_margin"]


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["sigmoid", "kto"])
def test_precomputed_or_not_cut_or_not(tmp_path, loss_type):
    """The reference's log-probabilities before training or in each step, and any micro-batch: the same losses."""
    chat_folder(tmp_path / "base", scale=0.1)
    shared = {"loss_type": loss_type, "logging_steps": 1}
    found = []
    for number, changes in enumerate([{}, {"micro_batch_size": 3}, {"precompute_ref_log_probs": False}]):
        config = make_config(tmp_path, output_dir=str(tmp_path / str(number)), **shared, **changes)
        found.append([(row["loss"], row["grad_norm"]) for row in run(config)[1] if "loss" in row])
    assert len(found[0]) == 6 and found[0][0] != found[0][-1]
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-4)  # of losses of 0.5, log-ratios being differences


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["--multi_gpu", "--use_deepspeed --zero_stage 3"])
def test_two_processes_are_one(tmp_path, strategy):
    """DDP, and ZeRO-3 whose parameters are whole only while the reference is computed: the losses of one process."""
    if "deepspeed" in strategy:
        pytest.importorskip("deepspeed")
    chat_folder(tmp_path / "base", scale=0.1)
    shared = {"loss_type": "kto", "logging_steps": 1, "max_steps": 4}
    _, alone = run(make_config(tmp_path, **shared))
    config = make_config(tmp_path, **shared, output_dir=str(tmp_path / "two"))
    (tmp_path / "config.yaml").write_text(json.dumps(changed(config)))
    strategy = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", *strategy.split()]
    script = [ROOT / "recipes" / "preference.py", "--config", tmp_path / "config.yaml"]
    run_program(*launcher(*strategy), *script, HF_HOME=str(tmp_path / "cache"))  # the reference is computed, not found
    two = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "grad_norm", "eval_loss", "eval_reward_margin"):
        expected, found = ([row[name] for row in rows if name in row] for rows in (alone, two))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_peft": False, "precompute_ref_log_probs": False}, "needs adapters that can be switched off"),
        ({"label_smoothing_factor": 0.1}, "set label_smoothing"),
        ({"model_name_or_path": None, "use_peft": False}, "needs a pretrained model"),
    ],
)
def test_recipe_settings_that_cannot_be(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(tmp_path, **changes)


def test_inspecting_runs_no_reference_model(tmp_path, capsys, monkeypatch):
    rows = [{"prompt": f"some words {i}", "chosen": "a few", "rejected": "more words"} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(training, "predict", lambda *args, **kwargs: pytest.fail("the model ran"))
    words = ["--model_name_or_path", str(chat_folder(tmp_path / "base")), "--train_file", str(tmp_path / "rows.jsonl")]
    cli.main(["inspect", "preference", "--look", "4", "--", *words, "--max_length", "100"])
    assert "examples looked at   4" in capsys.readouterr().out
