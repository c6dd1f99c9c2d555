"""The cut of a step that is chosen by a measurement: it changes no result, and a resumed run keeps it."""

import json
import math

import numpy as np
import pytest

from hftrain.config import TrainConfig
from hftrain.data.examples import Examples
from hftrain.data.files import cache
from hftrain.losses import causal_language_model
from hftrain.report.history import read_history
from hftrain.text.causal import collate_causal
from hftrain.train import budget, checkpoint
from hftrain.train.budget import Pass, best_budget
from hftrain.train.loop import fit, start
from tests import tiny
from tests.train.resume_worker import BrokenOff, break_off

STEPS = [np.array([[10], [10], [20], [40]]), np.array([[40], [38], [9], [12]])]


def test_equally_fast_budgets_give_the_smallest():
    level = [Pass(1, 20, 0.2), Pass(2, 40, 0.4), Pass(4, 80, 0.8), Pass(8, 160, 1.6)]
    tokens, reason = best_budget(level, STEPS, 1, 40)
    assert tokens == 40  # not 20, less than the longest example
    # passes of 40, 40 and 10 tokens, and of 40, 38 and 24
    assert reason == "measured here: about 1 s a step, 1.6 s at once"


def test_a_costly_pass_keeps_the_step_whole():
    steep = [Pass(1, 20, 1.0), Pass(2, 40, 1.01), Pass(4, 80, 1.02), Pass(8, 160, 1.03)]
    assert best_budget(steep, STEPS, 1, 40) is None


def test_what_does_not_fit_is_not_chosen():
    steep = [Pass(1, 20, 1.0), Pass(2, 40, 1.01), Pass(4, 80, math.inf)]
    tokens, reason = best_budget(steep, STEPS, 1, 40)
    assert tokens == 40 and reason.endswith("which does not fit at once")
    assert best_budget([Pass(1, 20, math.inf)], STEPS, 1, 40) is None


def test_processes_share_the_passes():
    """A pass of one row takes a second and one of two takes 1.5: one process does best with four rows at once, two
    processes, which need two passes in any case, with two rows each."""
    passes = [Pass(1, 40, 1.0), Pass(2, 80, 1.5), Pass(4, 160, 2.5)]
    equal = [np.full((4, 1), 40)]
    assert best_budget(passes, equal, 1, 40) is None
    assert best_budget(passes, equal, 2, 40) == (80, "measured here: about 1.5 s a step, 1.5 s at once")


# ---- in a run


def documents(count=48):
    draw = np.random.default_rng(0)
    return [{"input_ids": draw.integers(1, 50, length)} for length in draw.integers(4, 60, count)]


def train(folder, model=None, after_step=None, **settings):
    settings = {"max_steps": 12, "logging_steps": 1, "eval_steps": 0, "save_steps": 0, "seed": 1} | settings
    config = TrainConfig(output_dir=str(folder), global_batch_size=8, learning_rate=1e-3, **settings)
    rows = documents()
    lengths = np.array([[len(row["input_ids"])] for row in rows])
    fit(
        start(config), model or tiny.model("LlamaForCausalLM"), Examples(rows, lengths), config,
        loss=causal_language_model(), collate=lambda rows: collate_causal(rows, pad_token_id=0), after_step=after_step,
    )  # fmt: skip
    return config


def losses(folder):
    return [row["loss"] for row in read_history(folder / "metrics.jsonl") if "loss" in row]


@pytest.fixture(autouse=True)
def level(monkeypatch):
    """A pass takes a hundredth of a second for each token: what is really measured depends on the machine."""
    seconds = budget._seconds

    def level(accelerator, model, batch, loss, tries):
        assert 0 < seconds(accelerator, model, batch, loss, tries) < math.inf
        return batch(0)["input_ids"].numel() / 100

    monkeypatch.setattr(budget, "_seconds", level)
    monkeypatch.setattr(budget, "LONG_ENOUGH", 12)


def test_the_chosen_cut_changes_no_result_and_a_resume_keeps_it(tmp_path, capsys):
    whole, chosen = train(tmp_path / "whole", micro_batch_size=8), train(tmp_path / "chosen")
    assert whole.chosen.get("micro_batch_tokens") is None and chosen.micro_batch_tokens < 8 * 40
    assert f"micro_batch_tokens {chosen.micro_batch_tokens}: measured here" in capsys.readouterr().out
    assert losses(tmp_path / "chosen") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    with pytest.raises(BrokenOff):
        train(tmp_path / "stopped", after_step=break_off(8), save_steps=6)
    for file in (cache() / "passes").iterdir():
        file.unlink()  # so that a choice would be a new one
    resumed = train(tmp_path / "stopped", save_steps=6, resume_from_checkpoint="auto")
    assert resumed.micro_batch_tokens == chosen.micro_batch_tokens
    assert f"micro_batch_tokens {chosen.micro_batch_tokens}: as the checkpoint has it" in capsys.readouterr().out
    assert losses(tmp_path / "stopped") == losses(tmp_path / "chosen")
    assert (
        checkpoint.contract_of(tmp_path / "stopped", "auto")["chosen"]["micro_batch_tokens"]
        == resumed.micro_batch_tokens
    )
    assert not list((cache() / "passes").iterdir()), "a resumed run measures nothing"


def test_what_was_measured_is_read_again(tmp_path, monkeypatch):
    first = train(tmp_path / "first")
    with monkeypatch.context() as patch:
        patch.setattr(budget, "measure", lambda *_: pytest.fail("it was measured before"))
        assert train(tmp_path / "second").micro_batch_tokens == first.micro_batch_tokens
    (file,) = (cache() / "passes").iterdir()
    content = file.read_text()
    assert [size for size, _, _ in json.loads(content)] == [1, 2, 4, 8]
    file.write_text(content[:9])  # as a power cut may leave it
    assert train(tmp_path / "third").micro_batch_tokens == first.micro_batch_tokens
    assert file.read_text() == content


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ({"attention_dropout": 0.1}, {}),
        ({}, {"max_steps": 11}),
        ({}, {"micro_batch_size": 3}),
        ({}, {"micro_batch_tokens": 100}),
    ],
)
def test_a_cut_that_matters_or_is_set_is_not_chosen(tmp_path, monkeypatch, model, settings):
    monkeypatch.setattr(budget, "measure", lambda *_: pytest.fail("nothing is to be measured"))
    made = tiny.model("LlamaForCausalLM", **model)
    config = train(tmp_path / "out", made, **settings)
    assert "micro_batch_tokens" not in config.chosen


def test_a_random_loss_is_not_cut(tmp_path):
    model = tiny.model("LlamaForCausalLM")
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, _, out: out + 0.1 * out.new_empty(out.shape).normal_())
    assert train(tmp_path / "out", model).micro_batch_tokens is None
