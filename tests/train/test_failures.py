"""What goes wrong in a run is told, costs no more than it must, and reaches no weight."""

import json
import math
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers

from hftrain.data.plan import Plan
from hftrain.report import Report, publish
from hftrain.train import checkpoint
from tests.train.resume_worker import (
    WorkerConfig,
    exit_codes,
    fork,
    random_examples,
    trace,
    train,
    wait_for_save,
    without_timings,
)

EXACT = {"dropout": 0.0}


@pytest.fixture(autouse=True)
def other_precision():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def rows(output_dir):
    return [json.loads(line) for line in (Path(output_dir) / "metrics.jsonl").read_text().splitlines()]


def losses(output_dir, name="loss"):
    return [row[name] for row in rows(output_dir) if name in row]


def plan(config):
    lengths = np.array([[len(row)] for row in random_examples(config.examples, seed=0)])
    return Plan(lengths, seed=config.seed, global_batch_size=config.global_batch_size)


def weights(output_dir, step):
    saved = checkpoint.read(Path(output_dir) / f"checkpoint-{step}").tensors
    return {name: tensor for name, tensor in saved.items() if name.startswith(("model.", "optimizer."))}


# ------------------------------------------------------------------------------------------------- not finite
@pytest.mark.parametrize(("gradient", "what"), [(False, "loss"), (True, "gradient norm")])
def test_what_is_not_finite_stops_the_run_before_the_optimizer_step(tmp_path, gradient, what):
    config = WorkerConfig(output_dir=tmp_path, micro_batch_size=2, save_steps=1)
    bad = int(plan(config).examples(1)[0])  # of the second step
    models = {}
    with pytest.raises(FloatingPointError) as stop:
        train(
            replace(config, nonfinite_rows=[bad], nonfinite_gradient=gradient),
            lambda step, model: models.update({step: model}),
        )
    message = str(stop.value)
    assert f"step 2: the {what} is not finite" in message
    assert "Last good checkpoint: checkpoint-1." in message and "max_nonfinite_steps" in message
    named = json.loads(message[message.index("[") : message.index("]") + 1])
    assert bad in named and len(named) == (8 if gradient else 2)  # a loss is one micro-batch's
    assert list(models) == [1]
    saved = weights(tmp_path, 1)
    for name, value in models[1].state_dict().items():
        if f"model.{name}" in saved:  # all but the tied head
            assert torch.equal(value, saved[f"model.{name}"])  # in the model too, not only on the disk
    assert rows(tmp_path)[-1] == {"step": 2, "event": "not finite", "of": what, "examples": named}
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("gradient", [False, True])
def test_such_steps_are_skipped_and_counted_if_that_is_wanted(tmp_path, gradient, capsys):
    settings = {"nonfinite_rows": [5], "nonfinite_gradient": gradient, "logging_steps": 1, "save_steps": 1}
    config = WorkerConfig(output_dir=tmp_path / "skips", max_nonfinite_steps=4, save_total_limit=20, **settings)
    _, results = train(replace(config, optim="adafactor"))
    assert results["nonfinite_steps"] == 4 and results["total_steps"] == 12  # once in each epoch
    assert math.isfinite(results["train_loss"]) and math.isfinite(results["eval_loss"])
    assert "skipped (4 of at most 4)" in capsys.readouterr().out
    skipped = [row["step"] for row in rows(tmp_path / "skips") if "event" in row]
    assert [step for step in skipped if step > 1][-1] <= 12
    for step in range(2, 13):
        before, after = weights(tmp_path / "skips", step - 1), weights(tmp_path / "skips", step)
        same = all(torch.equal(before[name], after[name]) for name in before)
        assert same == (step in skipped)
    with pytest.raises(FloatingPointError):
        train(replace(config, output_dir=tmp_path / "ends", max_nonfinite_steps=3))


@pytest.mark.slow  # `test_exact` has the same under DDP, with what the main process says
def test_one_process_that_is_not_finite_stops_both(tmp_path):
    config = WorkerConfig(output_dir=tmp_path / "out", nonfinite_rows=[5], **EXACT)
    assert exit_codes(fork(config, 2)) == [1, 1]
    logs = [(tmp_path / f"out.log-{rank}").read_text() for rank in range(2)]
    first = [log.split("FloatingPointError: ")[1].splitlines()[0] for log in logs]
    assert first[0] == first[1] and "the loss is not finite (training examples [" in first[0]


def test_a_step_without_labels_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="step 1 has nothing to learn: all labels of its examples are masked"):
        train(WorkerConfig(output_dir=tmp_path, masked_step=True))


def test_an_example_over_the_micro_batch_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="micro_batch_tokens=9 is less than one example of 15 tokens"):
        train(
            WorkerConfig(output_dir=tmp_path / "out", micro_batch_tokens=9), lambda step, model: pytest.fail("a step")
        )
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------- out of memory
def test_out_of_memory_names_the_shape_and_what_to_lower(tmp_path):
    config = WorkerConfig(output_dir=tmp_path / "size", oom_rows=4)
    with pytest.raises(
        RuntimeError, match=r"step 1 with a micro-batch of input_ids \(8, 1\d\).*Set micro_batch_size under 8"
    ):
        train(config)
    config = WorkerConfig(output_dir=tmp_path / "tokens", oom_rows=4, micro_batch_tokens=100)
    with pytest.raises(RuntimeError, match=r"Lower micro_batch_tokens \(now 100\).*halve_on_oom"):
        train(config)


def test_halving_goes_on_with_the_same_numbers(tmp_path, capsys):
    _, results = train(WorkerConfig(output_dir=tmp_path / "halved", oom_rows=3, halve_on_oom=True, **EXACT))
    assert capsys.readouterr().out.count("out of memory in step 1: continuing with micro-batches of at most") == 2
    _, expected = train(WorkerConfig(output_dir=tmp_path / "small", micro_batch_size=2, **EXACT))
    assert without_timings(results) == without_timings(expected)
    assert rows_without_timings(tmp_path / "halved") == rows_without_timings(tmp_path / "small")
    with pytest.raises(RuntimeError, match="out of memory"):  # one example is too much
        train(WorkerConfig(output_dir=tmp_path / "none", oom_rows=0, halve_on_oom=True))


def rows_without_timings(output_dir):
    return [without_timings(row) for row in rows(output_dir)]


@pytest.mark.slow
def test_both_processes_halve_when_one_runs_out(tmp_path):
    config = WorkerConfig(output_dir=tmp_path / "out", oom_rows=2, oom_rank=1, halve_on_oom=True, **EXACT)
    assert exit_codes(fork(config, 2)) == [0, 0]
    train(WorkerConfig(output_dir=tmp_path / "one", **EXACT))
    assert "at most 2 examples" in (tmp_path / "out.log-0").read_text()
    for name in ("loss", "grad_norm", "eval_loss"):
        assert losses(tmp_path / "out", name) == pytest.approx(losses(tmp_path / "one", name), rel=1e-5)


# ------------------------------------------------------------------------------------------------- a full disk
@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_training_goes_on_when_the_disk_is_full(tmp_path, small_disk):
    """Full for steps 5 to 8: the checkpoints of 6 and 8, the best then, cannot be saved."""
    out = small_disk / "out"
    config = WorkerConfig(output_dir=out, **EXACT)
    seen = {}

    def fill(step, model):
        ballast = small_disk / "ballast"
        wait_for_save()
        if step == 5:
            with open(ballast, "wb") as file:
                while shutil.disk_usage(small_disk).free > 8192:
                    file.write(b"\0" * 4096)
                    file.flush()
        if step == 9:
            seen["kept"] = [path.name for path in checkpoint.checkpoints(out)]
            seen["leftovers"] = list(out.glob(".saving*"))
            ballast.unlink()

    with pytest.warns(UserWarning, match="checkpoint-6 was not saved.*Older checkpoints are intact"):
        _, results = train(config, fill)
    assert seen == {"kept": ["checkpoint-3", "checkpoint-4"], "leftovers": []}
    _, expected = train(replace(config, output_dir=tmp_path / "roomy"))
    assert without_timings(results) == without_timings(expected)
    assert trace(out)["step"] == 12
    assert final(out) == final(tmp_path / "roomy")


def final(output_dir):
    return {name: value for name, value in trace(Path(output_dir)).items() if name.startswith("final ")}


def test_the_best_that_could_be_saved_is_kept(tmp_path, small_disk):
    """The best step's checkpoint finds the disk full: the best one before it stays and is kept."""
    out = small_disk / "out"
    settings = {"eval_steps": 1, "save_steps": 0, "save_total_limit": 1, "learning_rate": 0.2}
    config = WorkerConfig(output_dir=out, max_steps=8, lr_scheduler_type="constant", **settings, **EXACT)
    _, undisturbed = train(replace(config, output_dir=tmp_path / "roomy"))
    best = undisturbed["best_step"]
    assert 1 < best < 8

    def fill(step, model):
        ballast = small_disk / "ballast"
        wait_for_save()
        if step == best:
            with open(ballast, "wb") as file:
                while shutil.disk_usage(small_disk).free > 8192:
                    file.write(b"\0" * 4096)
                    file.flush()
        elif ballast.exists():
            ballast.unlink()

    with pytest.warns(UserWarning, match=f"checkpoint-{best} was not saved"):
        _, results = train(config, fill)
    by_step = {row["step"]: row["eval_loss"] for row in rows(out) if "eval_loss" in row}
    second = min((loss, step) for step, loss in by_step.items() if step != best)
    assert (results["eval_loss"], results["best_step"]) == second
    assert best not in [int(path.name[11:]) for path in checkpoint.checkpoints(out)]


# ------------------------------------------------------------------------------------------------- settings of a run
def test_eval_on_start_shows_the_beginning_and_is_no_candidate(tmp_path):
    settings = {"learning_rate": 5.0, "lr_scheduler_type": "constant", "max_steps": 4, "eval_steps": 2}
    _, results = train(WorkerConfig(output_dir=tmp_path, eval_on_start=True, **settings))
    first, *others = [row for row in rows(tmp_path) if "eval_loss" in row]
    assert first["step"] == 0 and all(row["eval_loss"] > first["eval_loss"] for row in others)
    assert results["best_step"] in (2, 4) and results["eval_loss"] == min(row["eval_loss"] for row in others)


def test_rotation_keeps_the_limit_and_the_best(tmp_path):
    settings = {"learning_rate": 0.2, "lr_scheduler_type": "constant", "max_steps": 9, "eval_steps": 1}
    _, results = train(WorkerConfig(output_dir=tmp_path, save_steps=2, save_total_limit=2, **settings))
    best = results["best_step"]
    kept = [int(path.name.removeprefix("checkpoint-")) for path in checkpoint.checkpoints(tmp_path)]
    assert best < 8 and kept == [best, 8, 9]


def test_an_average_of_the_weights_is_what_is_evaluated_and_kept(tmp_path):
    settings = {"learning_rate": 0.2, "lr_scheduler_type": "constant", "max_steps": 8, "eval_steps": 1}
    averages, last = {}, {}

    def follow(step, model):
        weight = 1 - min(0.9, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            averages[step, name] = torch.lerp(averages.get((step - 1, name), begin[name]), value, weight)
            last[name] = value.clone()

    begin = {}
    almost_still = settings | {"learning_rate": 1e-30, "max_steps": 1, "weight_decay": 0.0}
    model, _ = train(WorkerConfig(output_dir=tmp_path / "begin", **almost_still))
    begin.update({name: value.clone() for name, value in model.state_dict().items()})
    model, results = train(WorkerConfig(output_dir=tmp_path / "out", ema_decay=0.9, **settings), follow)
    for name, value in model.state_dict().items():
        assert torch.allclose(value, averages[results["best_step"], name], atol=1e-6)
        assert name == "constant" or not torch.allclose(value, last[name], atol=1e-3)


def test_trackers_receive_the_log(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(WorkerConfig(output_dir=tmp_path, report_to=["tensorboard"], max_steps=4, eval_steps=2))
    file = min(tmp_path.rglob("events.out.tfevents*"), key=lambda path: len(path.parts))  # below: the configuration
    events = EventAccumulator(str(file)).Reload()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses(tmp_path))
    assert [event.step for event in events.Scalars("eval_loss")] == [2, 4]


@pytest.mark.slow
def test_trackers_know_the_run_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # before it is imported
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    trackio = pytest.importorskip("trackio")
    train(WorkerConfig(output_dir=tmp_path / "out", report_to=["trackio"], run_name="first", max_steps=1))
    trackio.finish()
    assert [run.name for run in trackio.Api().runs("hftrain")] == ["first"]


def test_a_tracker_that_is_not_installed_is_named(tmp_path):
    absent = {"wandb", "mlflow", "trackio"} - {str(name) for name in get_available_trackers()}
    if not absent:
        pytest.skip("all trackers are installed")
    name = absent.pop()
    with pytest.raises(ValueError, match=f"report_to {name} needs the package {name}"):
        train(WorkerConfig(output_dir=tmp_path, report_to=["tensorboard", name]))


def test_activation_checkpointing_changes_no_number(tmp_path):
    for name, on in [("plain", False), ("checkpointed", True)]:
        train(WorkerConfig(output_dir=tmp_path / name, activation_checkpointing=on))
    assert rows_without_timings(tmp_path / "checkpointed") == rows_without_timings(tmp_path / "plain")


def test_bf16_trains_with_fp32_weights(tmp_path):
    model, _ = train(WorkerConfig(output_dir=tmp_path / "bf16", bf16=True, **EXACT))
    AcceleratorState._reset_state(reset_partial_state=True)
    train(WorkerConfig(output_dir=tmp_path / "fp32", **EXACT))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), rel=2e-2)
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")


@pytest.mark.slow
def test_a_compiled_model_trains(tmp_path):
    train(WorkerConfig(output_dir=tmp_path / "compiled", torch_compile=True, max_steps=2, logging_steps=1, **EXACT))
    train(WorkerConfig(output_dir=tmp_path / "plain", max_steps=2, logging_steps=1, **EXACT))
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)


def test_a_report_that_cannot_be_written_is_told(tmp_path):
    config = WorkerConfig(output_dir=tmp_path, max_steps=2)
    _, results = train(config)
    (tmp_path / "report.html").mkdir()
    report = Report("Title", "text-generation", usage="1", metric="loss", split="validation", data={})
    with pytest.raises(ValueError, match=r"scores, report or card were not written: (.|\n)*it only scores and reports"):
        publish(Accelerator(), config, results, report)


def test_an_upload_that_fails_is_told_and_costs_nothing(tmp_path):
    """Without a token or a network, the error comes when all is written."""
    config = WorkerConfig(output_dir=tmp_path, max_steps=2, push_to_hub=True, hub_model_id="someone/something")
    _, results = train(config)
    texts = {"title": "Title", "task": "text-generation", "usage": "hftrain predict", "data": {}}
    report = Report(metric="loss", split="validation", **texts)
    with pytest.raises(RuntimeError, match=r"is complete, but was not uploaded to someone/something: (.|\n)*hf upload"):
        publish(Accelerator(), config, results, report)
    assert {"all_results.json", "report.html", "README.md", "model.safetensors"} <= {p.name for p in tmp_path.iterdir()}
