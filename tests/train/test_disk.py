"""A disk that is full, read-only, gone or moved: one sentence, and the state is saved where a folder can be made."""

import os
import shutil
import sys
from dataclasses import replace

import pytest

from hftrain.config import errors
from hftrain.report.progress import Progress
from hftrain.train import checkpoint
from tests.train.resume_worker import WorkerConfig, trace, train, wait_for_save


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_last_state_is_rescued_and_the_run_goes_on_from_there(tmp_path, monkeypatch, capsys):
    """The output folder becomes a file, which root cannot write into either."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    out = tmp_path / "out"
    config = WorkerConfig(output_dir=out, load_best_model_at_end=False)

    def spoil(step, model):
        if step == 5:
            wait_for_save()
            shutil.rmtree(out)
            out.write_text("not a folder")

    with pytest.raises(SystemExit) as stop:
        train(replace(config, signal_step=6), spoil)
    output = capsys.readouterr().out
    (rescued,) = tmp_path.glob("out-rescued-*/checkpoint-6")
    assert stop.value.code == 75 and f"stopped after step 6, saved in {rescued}" in output
    assert output.rstrip().endswith(f"--resume_from_checkpoint {rescued}")
    out.unlink()
    train(replace(config, resume_from_checkpoint=str(rescued)))
    train(replace(config, output_dir=tmp_path / "unbroken"))
    resumed, unbroken = trace(out), trace(tmp_path / "unbroken")
    for left in (resumed, unbroken):
        left["state"].pop("log_lines")  # how many lines there are: the first ones are gone
    assert {key for key in unbroken if resumed[key] != unbroken[key]} == {"metrics.jsonl"}


def test_a_folder_that_was_renamed_keeps_its_checkpoints_and_a_new_one_is_made(tmp_path):
    out = tmp_path / "out"

    def move(step, model):
        if step == 5:
            wait_for_save()
            out.rename(tmp_path / "moved")

    with pytest.warns(UserWarning, match=f"{out} was deleted or renamed during the run: it is created again"):
        train(WorkerConfig(output_dir=out, max_steps=8, save_total_limit=9), move)
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "moved")] == ["checkpoint-3", "checkpoint-4"]
    assert "checkpoint-8" in [path.name for path in checkpoint.checkpoints(out)]
    assert (out / "model.safetensors").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_disk_under_the_log_ends_no_run():
    with open("/dev/full", "w") as full:
        progress = Progress(3, file=full)
        with pytest.warns(UserWarning, match=r"can no longer be written \(.*No space left.*the run continues"):
            progress.print("a line")
        progress.print("another")
        with pytest.raises(OSError):
            full.close()


@pytest.mark.parametrize("number", [28, 30, 13, 122])
def test_a_disk_that_refuses_ends_a_program_with_a_sentence(monkeypatch, capsys, number):
    monkeypatch.setattr(sys, "excepthook", lambda *error: pytest.fail("a traceback"))
    errors.explain_errors()
    error = OSError(number, os.strerror(number), "/data/cache")
    sys.excepthook(OSError, error, None)
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert all(words in output for words in (os.strerror(number), "/data/cache", "Make room"))


def test_a_keyboard_interrupt_ends_a_program_without_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", lambda *error: pytest.fail("a traceback"))
    errors.explain_errors()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert "interrupted" in capsys.readouterr().err
