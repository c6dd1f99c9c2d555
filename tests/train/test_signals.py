"""A signal in any phase ends a run with code 75 and the words what is saved, and the run that goes on is the same."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from torch.utils.file_baton import FileBaton

from hftrain import signals
from hftrain.config.errors import explains
from hftrain.data.plan import Plan, steps
from hftrain.distributed.compiling import LONGEST_SECONDS, bound_waiting
from hftrain.metrics.checks import same_length
from hftrain.signals import exit_code, relay
from hftrain.train import checkpoint, evaluation
from tests.train.resume_worker import WorkerConfig, exit_codes, fork, trace, train, without_timings


def test_a_launcher_ends_a_program_that_heeds_no_signal_yet_by_sigterm(capfd, monkeypatch):
    """SIGINT would print a traceback of its imports."""
    monkeypatch.setattr(signals, "_saved", "before the first step: nothing new is saved")  # as in a process that begins
    young = "import os, time; os.write(1, b'x'); time.sleep(60)"
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    with subprocess.Popen([sys.executable, "-c", young], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout.read(1) == b"x"
        sent = relay(lambda: [program.pid])
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        assert (exit_code(program.wait(20), sent), sent, program.stderr.read()) == (75, {signal.SIGTERM}, b"")
    assert "SIGTERM: stopped before the first step: nothing new is saved" in capfd.readouterr().err
    assert exit_code(-signal.SIGKILL, sent) == 128 + signal.SIGKILL
    assert exit_code(3, sent) == 3


def test_a_signal_that_the_loop_took_does_not_end_the_program_after_it():
    """The thread that watches the whole program may see the signal only when the loop is over."""
    program = """
import os, signal, time
from hftrain import signals
signals.PATIENCE = 0.1
signals.end_program_when_asked()
read = os.read
os.read = lambda *arguments: (read(*arguments), time.sleep(0.3))[0]  # a thread that is late
with signals.StopSignals() as loop:
    os.kill(os.getpid(), signal.SIGTERM)
assert loop.received == signal.SIGTERM
time.sleep(1)
print("published")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "published\n")


def test_a_program_with_data_workers_ends_after_an_error():
    """The workers ignore the SIGTERM by which multiprocessing ends them, and the error's traceback keeps them."""
    program = """
import numpy as np
import torch
from hftrain.data.plan import Plan, steps
plan = Plan(np.ones((8, 1), dtype=np.int64), seed=1, global_batch_size=2)
kept = steps([torch.ones(1)] * 8, torch.stack, plan, start=0, stop=4, micro_batch_size=2, num_workers=2)
next(kept)
raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (7, "")


# -------------------------------------------------------------------------------------------------- evaluations
SETTINGS = {"eval_steps": 2, "save_steps": 4, "early_stopping_patience": 3}


@pytest.mark.parametrize("at", [2, 6, 12])  # not saved but for the stop, the best perhaps, the last
def test_a_stop_does_not_wait_for_an_evaluation_and_the_run_that_goes_on_makes_it(tmp_path, capsys, at):
    config = WorkerConfig(output_dir=tmp_path / "out", resume_from_checkpoint="auto", **SETTINGS)
    _, expected = train(replace(config, output_dir=tmp_path / "unbroken"))
    with pytest.raises(SystemExit) as stop:
        train(replace(config, signal_evaluation=at))
    assert stop.value.code == 75
    assert f"stopped after step {at}, saved" in capsys.readouterr().out
    assert checkpoint.read(tmp_path / "out" / f"checkpoint-{at}").state["evaluation_due"]
    _, results = train(config)
    assert without_timings(results) == without_timings(expected)
    assert trace(tmp_path / "out") == trace(tmp_path / "unbroken")


def test_a_stop_in_the_step_saves_before_the_evaluation(tmp_path, monkeypatch):
    config = WorkerConfig(output_dir=tmp_path / "out", resume_from_checkpoint="auto", **SETTINGS)
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(evaluation, "_share", lambda *arguments: pytest.fail("an evaluation"))
        train(replace(config, signal_step=1))  # seen in step 2, which is to be evaluated
    train(replace(config, output_dir=tmp_path / "unbroken"))
    train(config)
    assert trace(tmp_path / "out") == trace(tmp_path / "unbroken")


def test_a_stop_in_the_evaluation_before_the_first_step_has_nothing_to_save(tmp_path, capsys):
    config = WorkerConfig(output_dir=tmp_path, eval_on_start=True, resume_from_checkpoint="auto", max_steps=2)
    with pytest.raises(SystemExit) as stop:
        train(replace(config, signal_evaluation=0))
    assert stop.value.code == 75
    assert "stopped after step 0, nothing is saved yet" in capsys.readouterr().out
    train(config)


def test_two_processes_break_an_evaluation_off_together(tmp_path):
    """One of them is asked while it evaluates: both leave, and nobody waits in a collective."""
    config = WorkerConfig(output_dir=tmp_path / "out", dropout=0.0, eval_steps=2, signal_evaluation=2, signal_rank=1)
    assert exit_codes(fork(config, 2)) == [75, 75]
    assert checkpoint.checkpoints(tmp_path / "out")[-1].name == "checkpoint-2"
    assert checkpoint.read(tmp_path / "out" / "checkpoint-2").state["evaluation_due"]


# ------------------------------------------------------------------------------------------------------- others
def refuse(rows):
    same_length(predictions=rows, labels=[])  # which raises for the user


@pytest.mark.parametrize(
    ("collate", "message"),
    [(refuse, "^the lengths differ: 2 predictions, 0 labels$"), (lambda rows: 1 / 0, "Original Traceback")],
)
def test_an_error_of_ours_in_a_data_worker_is_one_sentence(collate, message):
    plan = Plan(np.ones((2, 1), dtype=np.int64), seed=1, global_batch_size=2)
    with pytest.raises((ValueError, ZeroDivisionError), match=message) as raised:
        list(steps([1, 2], collate, plan, start=0, stop=1, micro_batch_size=2, num_workers=1))
    assert explains(raised.value) == (collate is refuse)  # it ends a program without a traceback


def test_a_stale_lock_of_a_compilation_is_named(tmp_path, capsys):
    lock = tmp_path / "op" / "lock"
    lock.parent.mkdir()
    lock.touch()
    (lock.parent / "build.ninja").touch()
    bound_waiting()
    old = time.time() - LONGEST_SECONDS - 60
    for path in lock.parent.iterdir():
        os.utime(path, (old, old))
    with pytest.raises(ValueError, match=rf"{lock} exists, but nothing in its folder was written for 16 minutes"):
        FileBaton(str(lock)).wait()
    lock.touch()  # somebody compiles now
    with ExitStack() as stack:
        child = os.fork()
        if child == 0:
            time.sleep(0.3)
            lock.unlink()
            os._exit(0)
        stack.callback(os.waitpid, child, 0)
        FileBaton(str(lock)).wait()
    assert not lock.exists()
