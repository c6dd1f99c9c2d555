"""Processes that die, hang or disagree end the job, with the name of the one that did; a launcher starts it again."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hftrain.report.history import read_history
from hftrain.train import checkpoint
from tests import ROOT
from tests.programs import free_port
from tests.train.resume_worker import WorkerConfig, exit_codes, fork, train

WORKER = ROOT / "tests" / "train" / "resume_worker.py"


def logs(out: Path) -> list[str]:
    return [Path(f"{out}.log-{rank}").read_text() for rank in (0, 1)]


# ---------------------------------------------------------------------------------------------------------- hangs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"signal_step": 2, "signal_rank": 1, "signal_name": "SIGSTOP"}, "no report for 4 s: stopped, killed"),
        ({"signal_step": 2, "signal_rank": 1, "signal_name": "SIGKILL"}, "no report for 1 s: stopped, killed"),
        ({"stalled_rank": 1}, "no process has advanced for 4 s (ddp_timeout)"),
    ],
    ids=["stopped", "killed", "stalled"],
)
def test_who_hangs_is_named_and_the_job_ends(tmp_path, fault, says):
    out = tmp_path / "out"
    processes = fork(WorkerConfig(output_dir=str(out), ddp_timeout=4, **fault), 2)
    began = time.monotonic()
    codes = exit_codes(processes[:1], 60)
    processes[1].kill()
    assert codes == [1]
    assert time.monotonic() - began < 30
    said = logs(out)[0].partition("hftrain: ")[2]
    assert says in said
    named = next(line for line in said.splitlines() if "rank 1" in line)
    assert f"rank 1 (host {os.uname().nodename}, pid {processes[1].pid})" in named
    if "stalled_rank" in fault:
        assert "resume_worker.py" in named and "fault" in named
        assert "all_reduce" in said or "wait" in said


@pytest.mark.slow
def test_all_leave_together_when_the_first_has_removed_old_checkpoints(tmp_path):
    """Though that takes longer than a collective may: torchrun kills the first 30 s after another has left with 75."""
    config = WorkerConfig(output_dir=str(tmp_path / "out"), signal_step=2, seconds_to_rotate=9, ddp_timeout=4)
    processes = fork(config, 2)
    processes[1].join(60)
    time.sleep(1)
    assert processes[0].exitcode is not None, "the other one has left"
    assert exit_codes(processes, 1) == [75, 75], logs(tmp_path / "out")


@pytest.mark.slow
def test_a_save_may_take_longer_than_a_collective(tmp_path):
    config = WorkerConfig(output_dir=str(tmp_path / "out"), max_steps=2, save_steps=2, seconds_to_seal=9, ddp_timeout=4)
    assert exit_codes(fork(config, 2), 100) == [0, 0], logs(tmp_path / "out")


# ---------------------------------------------------------------------------------------------------- disagreement


def refusal(out: Path, **odd: object) -> str:
    config = WorkerConfig(output_dir=str(out))
    assert exit_codes(fork(config, 2, **odd), 60) == [1, 1]
    said = [re.sub(r"^\[rank\d\]: ", "", log, flags=re.MULTILINE) for log in logs(out)]
    messages = {log[log.index("\nValueError: the processes disagree") :].strip() for log in said}
    assert len(messages) == 1  # every process says the same
    assert not list(out.glob("checkpoint-*"))
    return messages.pop()


def test_processes_with_other_settings_or_packages_are_refused(tmp_path):
    older = tmp_path / "site" / "peft-0.1.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1\n")
    odd_one = WorkerConfig(output_dir=str(tmp_path / "out"), learning_rate=0.02)
    said = refusal(tmp_path / "out", odd_one=odd_one, FIRST_ON_PATH=str(older.parent))
    host = os.uname().nodename
    assert f"settings.learning_rate: 0.01 on rank 0 (host {host}); 0.02 on rank 1 (host {host})" in said
    assert f'versions.peft: "{checkpoint.versions()["peft"]}" on rank 0 (host {host}); "0.1" on rank 1' in said
    assert len(said.splitlines()) == 3  # and nothing else differs


@pytest.mark.slow
def test_processes_with_other_data_are_refused(tmp_path):
    said = refusal(tmp_path / "out", ROWS_SEED="1")
    assert re.search(r"  train_data: \S+ on rank 0 \(host \S+\); \S+ on rank 1", said)
    assert len(said.splitlines()) == 2


# ------------------------------------------------------------------------------------------------------------- end

PROGRAM = """
import atexit, sys
import torch.distributed as dist

atexit.register(lambda: print("together" if dist.is_initialized() else "parted"))  # the last of all to be called
from hftrain.distributed import make_accelerator, watch

watch.beat_seconds = lambda timeout: 0.0  # without a pause: Python ends a thread that is in C++ with an abort
make_accelerator().wait_for_everyone()
exec(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("last", "code", "says"),
    [
        pytest.param("", 0, "parted", id="end"),
        pytest.param("sys.exit(75)", 1, "parted", id="exit", marks=pytest.mark.slow),
        pytest.param("raise ValueError", 1, "together", id="error", marks=pytest.mark.slow),
    ],
)
def test_a_program_that_ends_parts_from_the_other_processes(tmp_path, last, code, says):
    """Any program, not only one that trains to the end; after an error NCCL would wait for who may be gone."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, tmp_path / "program.py", last], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr[-3000:]
    assert set(re.findall("together|parted", done.stdout)) == {says}  # torchrun may end the other one


# --------------------------------------------------------------------------------------------------------- restart


@pytest.mark.slow
def test_torchrun_starts_a_killed_job_again_and_it_goes_on(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", WORKER, "--output_dir", out, "--resume_from_checkpoint", "auto"]
    command += [
        "--signal_step",
        "7",
        "--signal_rank",
        "1",
        "--signal_name",
        "SIGKILL",
        "--logging_steps",
        "1",
        "--dropout",
        "0",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"resumed from \S+/checkpoint-6 at step 6 of 12", done.stdout)
    train(WorkerConfig(output_dir=str(tmp_path / "unbroken"), logging_steps=1, dropout=0.0))
    assert steps(out) == {
        step: pytest.approx(values, rel=1e-5) for step, values in steps(tmp_path / "unbroken").items()
    }


@pytest.mark.slow
def test_sigterm_on_a_zero_3_pretraining_saves_and_one_process_goes_on(tmp_path):
    """A new model, by way of `hftrain run` from another folder: 2 processes, then 1, are the unbroken run of 1."""
    pytest.importorskip("deepspeed")
    out, log, text = tmp_path / "out", tmp_path / "log", tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(str(i * k % 97) for k in range(5 + i % 20)) for i in range(300)))
    options = ["--model_config.hidden_size", "16", "--model_config.num_hidden_layers", "1", "--vocab_size", "300"]
    options += ["--max_length", "48", "--global_batch_size", "8", "--micro_batch_size", "4", "--max_steps", "40"]
    options += ["--eval_steps", "0", "--save_steps", "0", "--sample_tokens", "0", "--logging_steps", "1"]

    def start(*launch: Any, output_dir: Path = out) -> subprocess.Popen:
        words = [*launch, "--", "--train_file", text, "--output_dir", output_dir, "--resume_from_checkpoint", "auto"]
        command = [sys.executable, "-m", "hftrain.cli", "run", "pretrain", *words, *options]
        with open(log, "a") as file:
            return subprocess.Popen(list(map(str, command)), cwd=tmp_path, stdout=file, stderr=file)

    started = start("--config_file", ROOT / "ds_configs" / "zero3.yaml", "--main_process_port", free_port())
    deadline = time.monotonic() + 250
    while "step  3/40" not in log.read_text():
        assert started.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    assert started.wait(250) == 75, log.read_text()
    assert list(out.glob("checkpoint-*")) and not (out / "model.safetensors").exists()
    assert start().wait(250) == 0, log.read_text()
    assert re.search(r"resumed from \S+ at step \d+ of 40", log.read_text())
    assert start(output_dir=tmp_path / "unbroken").wait(250) == 0, log.read_text()
    assert len(steps(out)) == 40
    assert steps(out) == {
        step: pytest.approx(values, rel=1e-5) for step, values in steps(tmp_path / "unbroken").items()
    }


def steps(out: Path) -> dict[int, tuple[float, float]]:
    rows = [row for row in read_history(out / "metrics.jsonl") if "loss" in row]
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in rows}
