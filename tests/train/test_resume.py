"""A run that was stopped, killed or broken off and taken up again is the run that was not: bit for bit."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from hftrain.signals import EXIT_INTERRUPTED
from hftrain.train import checkpoint
from tests.programs import free_port
from tests.train.resume_worker import (
    BrokenOff,
    WorkerConfig,
    break_off,
    exit_codes,
    fork,
    random_examples,
    trace,
    train,
    without_timings,
)

WORKER = Path(__file__).with_name("resume_worker.py")
# Dropout, averaged weights, workers, an epoch of 8 + 8 + 4 examples cut into micro-batches of 3, windows of the log
# that stops fall into.
FULL = {"ema_decay": 0.9, "dataloader_num_workers": 2, "micro_batch_size": 3}


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """Settings -> what the run that nobody stops leaves, and its results."""
    done = {}

    def run(**settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in done:
            folder = tmp_path_factory.mktemp("unbroken")
            _, results = train(WorkerConfig(output_dir=folder, **settings))
            done[key] = trace(folder), without_timings(results)
        return done[key]

    return run


def wait_for(condition, seconds=100):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def read(path):
    return path.read_text() if path.exists() else ""


# ------------------------------------------------------------------------------------------------- bit for bit
def test_a_run_stopped_again_and_again_is_the_unbroken_one(tmp_path, unbroken, capsys):
    config = WorkerConfig(output_dir=tmp_path / "out", resume_from_checkpoint="auto", **FULL)
    # the third comes before an evaluation, which it breaks off
    for asked, stopped, name in [(2, 3, "SIGTERM"), (4, 5, "SIGUSR1"), (9, 9, "SIGINT")]:
        with pytest.raises(SystemExit) as stop:
            train(replace(config, signal_step=asked, signal_name=name))
        assert stop.value.code == EXIT_INTERRUPTED == 75
        assert f"stopped after step {stopped}, saved" in capsys.readouterr().out
        assert checkpoint.checkpoints(tmp_path / "out")[-1].name == f"checkpoint-{stopped}"
        assert not (tmp_path / "out" / "model.safetensors").exists()  # nothing after the loop ran
    _, results = train(config)
    left, results_of_unbroken = unbroken(**FULL)
    assert trace(tmp_path / "out") == left
    assert without_timings(results) == results_of_unbroken
    assert results["total_steps"] == 12 and results["samples_seen"] == 80 and results["tokens_seen"] > 500
    # and the unbroken run is no accident of a model that does not learn
    assert left["metrics.jsonl"][-2]["loss"] < left["metrics.jsonl"][0]["loss"] - 0.3


@pytest.mark.parametrize("optim", ["adafactor", "muon"])
def test_other_optimizers_resume_bit_for_bit_too(tmp_path, unbroken, optim):
    config = WorkerConfig(output_dir=tmp_path, resume_from_checkpoint="auto", optim=optim)
    with pytest.raises(BrokenOff):
        train(config, break_off(6))
    assert checkpoint.checkpoints(tmp_path)[-1].name == "checkpoint-4"
    train(config)
    left, _ = unbroken(optim=optim)
    assert trace(tmp_path) == left
    assert any("row_var" in key or "momentum_buffer" in key for key in left)


def test_grouped_steps_resume_bit_for_bit_too(tmp_path, unbroken):
    """From the middle of the first epoch of 10 steps into the second."""
    grouped = {"train_sampling_strategy": "group_by_length", "global_batch_size": 2}
    config = WorkerConfig(output_dir=tmp_path, resume_from_checkpoint="auto", **grouped)
    with pytest.raises(BrokenOff):
        train(config, break_off(6))
    train(config)
    left, _ = unbroken(**grouped)
    assert trace(tmp_path) == left != unbroken(global_batch_size=2)[0]


def test_kill_9_in_the_middle_of_an_epoch(tmp_path, unbroken):
    config = WorkerConfig(output_dir=tmp_path / "out", resume_from_checkpoint="auto", **FULL)
    process = fork(replace(config, signal_step=8, signal_name="SIGKILL"))
    assert exit_codes(process) == [-signal.SIGKILL]
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "out")] == ["checkpoint-4", "checkpoint-6"]
    assert exit_codes(fork(config)) == [0]
    left, results = unbroken(**FULL)
    assert trace(tmp_path / "out") == left
    assert without_timings(json.loads((tmp_path / "out.fit-returned").read_text())) == results
    log = (tmp_path / "out.log-0").read_text()
    assert "took over the lock" in log and "at step 6 of 12" in log


def test_kill_9_in_the_middle_of_saves(tmp_path, unbroken):
    settings = {"save_steps": 1, "width": 256, **FULL}
    out = tmp_path / "out"
    config = WorkerConfig(output_dir=out, resume_from_checkpoint="auto", **settings)
    draw, staged = random.Random(5), 0
    for attempt in range(40):
        (process,) = fork(config)
        saves, seen = 1 + attempt % 2, set()  # kills the first save of this start, or the second
        while process.is_alive() and len(seen) < saves:
            seen |= {path.name for path in out.glob(".saving-*")}
        time.sleep(draw.uniform(0, 0.03))
        process.kill()
        process.join()
        staged += any(out.glob(".saving-*"))
        for folder in checkpoint.checkpoints(out):
            assert checkpoint.verify(folder) == []
        if staged >= 2 and attempt >= 3:
            break
    assert staged >= 2, "no kill fell into a save"
    assert exit_codes(fork(config)) == [0]
    assert not list(out.glob(".*checkpoint*"))
    assert trace(out) == unbroken(**settings)[0]


def test_early_stopping_and_the_best_model_survive_a_stop(tmp_path, unbroken):
    # an average that lags behind at first, then a learning rate that ruins the model: the best is in the middle
    settings = {"learning_rate": 0.2, "lr_scheduler_type": "constant", "eval_steps": 1, "save_steps": 0}
    settings |= {"early_stopping_patience": 3, "max_steps": 40, "examples": 16}
    left, results = unbroken(**settings)
    assert 1 <= results["best_step"] < results["total_steps"] == results["best_step"] + 3 < 40
    config = WorkerConfig(output_dir=tmp_path, resume_from_checkpoint="auto", **settings)
    with pytest.raises(SystemExit):
        train(replace(config, signal_step=results["best_step"]))
    _, resumed = train(config)
    assert without_timings(resumed) == results and trace(tmp_path) == left


def test_the_kept_model_is_the_best_ones(tmp_path):
    settings = {"learning_rate": 0.2, "lr_scheduler_type": "constant", "eval_steps": 1, "save_steps": 2}
    weights = {}

    def remember(step, model):
        weights[step] = {name: value.clone() for name, value in model.state_dict().items()}

    config = WorkerConfig(output_dir=tmp_path, save_total_limit=1, max_steps=8, **settings)
    model, results = train(config, remember)
    assert results["best_step"] < 8
    best = weights[results["best_step"]]
    final = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, best[name]) for name, value in [*model.state_dict().items(), *final.items()])
    assert not all(torch.equal(value, weights[8][name]) for name, value in final.items())


# ------------------------------------------------------------------------------------------------- where it starts
def test_it_begins_with_what_it_trains_and_how_long(tmp_path, capsys):
    model, _ = train(WorkerConfig(output_dir=tmp_path, max_steps=6))
    number, tokens = sum(p.numel() for p in model.parameters()), sum(map(len, random_examples(20, 0)))
    says = capsys.readouterr().out.splitlines()
    del says[: next(i for i, line in enumerate(says) if line.startswith("TransformerForCausalLM"))]  # what was chosen
    assert says[0] == f"TransformerForCausalLM: {number:,} parameters, trained: all; cpu, fp32"
    assert says[1] == f"steps: 6 of 8 examples; epochs: 2 of 20 examples, {tokens} tokens"


def test_a_finished_run_has_nothing_to_do(tmp_path, unbroken, capsys):
    config = WorkerConfig(output_dir=tmp_path, resume_from_checkpoint="auto", **FULL)
    _, results = train(config)
    before = trace(tmp_path)
    capsys.readouterr()

    def no_step(step, model):
        raise AssertionError

    _, again = train(config, no_step)
    assert again == results  # timings too
    assert trace(tmp_path) == before
    assert "resumed from" in capsys.readouterr().out


def test_a_folder_that_holds_a_run_is_refused_without_auto(tmp_path):
    config = WorkerConfig(output_dir=tmp_path, max_steps=1)
    train(config)
    with pytest.raises(ValueError, match=r"already contains a run \(checkpoint-1, model.safetensors\).*auto"):
        train(config)


def test_auto_passes_over_a_damaged_checkpoint_and_says_so(tmp_path, unbroken, capsys):
    config = WorkerConfig(output_dir=tmp_path, resume_from_checkpoint="auto", **FULL)
    with pytest.raises(BrokenOff):
        train(config, break_off(7))
    with open(tmp_path / "checkpoint-6" / "training-00001.safetensors", "r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    train(config)
    out = capsys.readouterr().out
    assert "passed over checkpoint-6: training-00001.safetensors: its content has changed" in out
    assert "at step 4 of 12" in out
    assert trace(tmp_path) == unbroken(**FULL)[0]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_after_the_last_step_is_obeyed_too(tmp_path, unbroken, capsys, name):
    """Nothing that follows `fit` runs, and the run that goes on only has to follow."""
    config = WorkerConfig(output_dir=tmp_path, resume_from_checkpoint="auto")
    with pytest.raises(SystemExit) as left:
        train(replace(config, signal_step=12, signal_name=name))
    assert left.value.code == EXIT_INTERRUPTED
    assert "stopped after step 12, saved" in capsys.readouterr().out
    train(config)
    assert trace(tmp_path) == unbroken()[0]


def test_who_goes_back_gives_up_what_came_after(tmp_path, capsys):
    """Else `auto` would take up the course that was given up, and rotation prefer its checkpoints to the new ones."""
    settings = {"output_dir": tmp_path, "save_steps": 2, "load_best_model_at_end": False, "save_total_limit": 2}
    train(WorkerConfig(**settings | {"save_total_limit": 9}))
    again = WorkerConfig(**settings, resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    with pytest.raises(BrokenOff):
        train(again, break_off(7))
    assert "checkpoint-12 is of a later step: renamed to checkpoint-12.given-up" in capsys.readouterr().out
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-6"]
    assert (tmp_path / "checkpoint-12.given-up" / "manifest.json").exists()
    assert checkpoint.find(tmp_path, "auto")[0] == tmp_path / "checkpoint-6"


def test_a_second_run_is_kept_out(tmp_path):
    config = WorkerConfig(output_dir=tmp_path / "out", resume_from_checkpoint="auto", seconds_per_step=0.5)
    (process,) = fork(config)
    wait_for(lambda: "did step" in read(tmp_path / "out.log-0"))
    with pytest.raises(ValueError, match=rf"is in use by pid {process.pid} on {os.uname().nodename} since"):
        train(config)
    os.kill(process.pid, signal.SIGTERM)
    assert exit_codes([process]) == [75]
    assert not (tmp_path / "out" / ".lock").exists()


# ------------------------------------------------------------------------------------------------- real commands
def test_a_second_ctrl_c_stops_at_once(tmp_path):
    (process,) = fork(WorkerConfig(output_dir=tmp_path / "out", seconds_per_step=60))
    wait_for(lambda: "did step" in read(tmp_path / "out.log-0"))
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)  # the same Ctrl-C, passed on by a launcher
    time.sleep(1.2)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    began = time.monotonic()
    assert exit_codes([process], 20) == [1]
    assert time.monotonic() - began < 10
    log = (tmp_path / "out.log-0").read_text()
    assert log.count("SIGINT: stopping after this step") == 1 and "KeyboardInterrupt" in log
    assert not checkpoint.checkpoints(tmp_path / "out")


def command_environment():
    bin_folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}


def run(*command, **settings):
    settings = {"env": command_environment(), "capture_output": True, "text": True, "timeout": 200, **settings}
    return subprocess.run([str(part) for part in command], **settings)


def printed_command(output):
    return next(line.strip() for line in output.splitlines() if "--resume_from_checkpoint auto" in line)


@pytest.mark.parametrize("given", [["--resume-from-checkpoint", "auto"], ["--resume-from-checkpoint=auto"], []])
def test_the_printed_command_says_once_where_to_resume(tmp_path, monkeypatch, capsys, given):
    monkeypatch.setattr(sys, "argv", ["run.py", *given, "--seed", "3"])
    with pytest.raises(SystemExit):
        train(WorkerConfig(output_dir=tmp_path, signal_step=1))
    assert printed_command(capsys.readouterr().out) == "python run.py --seed 3 --resume_from_checkpoint auto"


@pytest.mark.slow
def test_the_printed_command_resumes(tmp_path, unbroken):
    out = tmp_path / "out"
    stopped = run(sys.executable, WORKER, "--output_dir", out, "--signal_step", 4, "--resume_from_checkpoint=auto")
    assert stopped.returncode == 75, stopped.stderr
    assert not Path(f"{out}.fit-returned").exists()
    command = printed_command(stopped.stdout)
    assert command == shlex.join(
        ["python", str(WORKER), "--output_dir", str(out), "--signal_step", "4", "--resume_from_checkpoint", "auto"]
    )
    assert subprocess.run(command, shell=True, env=command_environment(), capture_output=True).returncode == 0
    assert trace(out) == unbroken()[0]


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_two_processes_stop_together_when_one_is_asked_to(tmp_path, victim, unbroken):
    config = WorkerConfig(output_dir=tmp_path / "out", resume_from_checkpoint="auto", dropout=0.0)
    assert exit_codes(fork(replace(config, signal_step=4, signal_rank=victim), 2)) == [75, 75]
    assert checkpoint.checkpoints(tmp_path / "out")[-1].name == "checkpoint-5"
    assert exit_codes(fork(config)) == [0]  # on one process
    assert checkpoint.checkpoints(tmp_path / "out")[-1].name == "checkpoint-12"
    rows, expected = trace(tmp_path / "out")["metrics.jsonl"], unbroken(dropout=0.0)[0]["metrics.jsonl"]
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for name in ("loss", "grad_norm", "eval_loss"):
        found = [row[name] for row in rows if name in row]
        assert found == pytest.approx([row[name] for row in expected if name in row], rel=1e-5)


def trainers(process):
    """The training processes below a launcher, without the workers of their data."""
    return [child for child in process.children() if str(WORKER) in child.cmdline()]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_kill_9_of_the_launcher_leaves_no_orphan_that_trains_on(tmp_path, processes):
    out = tmp_path / "out"
    launcher = ["accelerate", "launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher += ["--multi_gpu", "--num_processes", "2", "--main_process_port", free_port()] if processes == 2 else []
    arguments = ["--output_dir", out, "--seconds_per_step", "0.2", "--max_steps", "1000", "--dataloader_num_workers", 2]
    log = tmp_path / "log"
    with open(log, "w") as file:
        command = [str(part) for part in [*launcher, WORKER, *arguments]]
        started = subprocess.Popen(command, env=command_environment(), stdout=file, stderr=file)
    wait_for(lambda: "step    4" in log.read_text())
    assert len(trainers(psutil.Process(started.pid))) == processes
    everything = psutil.Process(started.pid).children(recursive=True)
    started.kill()
    started.wait()
    _, alive = psutil.wait_procs(everything, timeout=60)
    for process in alive:
        process.kill()
    assert not alive
    assert "SIGTERM: stopping after this step" in log.read_text()
    step = checkpoint.checkpoints(out)[-1].name.removeprefix("checkpoint-")
    assert f"stopped after step {step}, saved" in log.read_text()
    command = printed_command(log.read_text())
    assert command.startswith("accelerate launch ")
    shorter = command.replace("--max_steps 1000", f"--max_steps {int(step) + 2} --resume_allow total_steps")
    resumed = subprocess.run(shorter, shell=True, env=command_environment(), capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert f"at step {step} of" in resumed.stdout


@pytest.mark.slow
def test_a_launcher_killed_while_the_recipe_imports_leaves_no_orphan(tmp_path):
    arguments = ["--output_dir", tmp_path / "out", "--seconds_per_step", "1", "--max_steps", "1000"]
    command = ["accelerate", "launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [str(part) for part in [*command, WORKER, *arguments]]
    started = subprocess.Popen(command, env=command_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: trainers(psutil.Process(started.pid)))
    children = trainers(psutil.Process(started.pid))
    started.kill()
    _, alive = psutil.wait_procs(children, timeout=60)
    for child in alive:
        child.kill()
    assert not alive
    assert b"the launcher is gone" in started.stderr.read()


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "name"), [(1, "SIGTERM"), (1, "SIGINT"), (2, "SIGUSR1")])
def test_hftrain_run_passes_signals_on_and_returns_75(tmp_path, processes, name):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "hftrain.cli", "run", WORKER]
    command += ["--num_processes", processes, "--main_process_port", free_port(), "--"] if processes > 1 else []
    command += ["--output_dir", out, "--seconds_per_step", "0.2", "--max_steps", "1000"]
    log = tmp_path / "log"
    with open(log, "w") as file:
        command = [str(part) for part in command]
        started = subprocess.Popen(command, env=command_environment(), stdout=file, stderr=file)
    wait_for(lambda: "step    4" in log.read_text())
    started.send_signal(signal.Signals[name])
    assert started.wait(100) == 75, log.read_text()
    assert log.read_text().count(f"{name}: stopping after this step") == processes
    assert "saved. To resume" in log.read_text()
    assert not Path(f"{out}.fit-returned").exists()
