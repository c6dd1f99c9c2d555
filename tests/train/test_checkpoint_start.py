"""Where a run starts in an output folder: which checkpoint is taken, and which folder is refused."""

import os

import pytest
import torch

from hftrain.train import checkpoint
from tests.train.test_checkpoint import flip_a_byte, save

# ----------------------------------------------------------------------------------------------- where to start from


def test_where_a_run_starts(tmp_path):
    assert checkpoint.find(tmp_path / "new", None) == (None, [])
    assert checkpoint.find(tmp_path / "new", "auto") == (None, [])
    assert checkpoint.find(tmp_path, "auto") == (None, [])
    save(tmp_path, 9)
    save(tmp_path, 10)  # the newest by number, not by name
    assert checkpoint.find(tmp_path, "auto") == (tmp_path / "checkpoint-10", [])
    assert checkpoint.find(tmp_path, str(tmp_path / "checkpoint-9")) == (tmp_path / "checkpoint-9", [])
    message = (
        r"already contains a run \(checkpoint-9, checkpoint-10\).*--resume_from_checkpoint auto.*another --output_dir"
    )
    with pytest.raises(ValueError, match=message):
        checkpoint.find(tmp_path, None)
    with pytest.raises(ValueError, match=r"checkpoint-7 cannot be used: manifest.json: missing.*checkpoint-10 is good"):
        checkpoint.find(tmp_path, str(tmp_path / "checkpoint-7"))


def test_a_folder_that_cannot_be_written_is_refused_before_anything_takes_time(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/out cannot be written, since .*file is no folder: choose another"):
        checkpoint.find(tmp_path / "file" / "out", None)
    with pytest.raises(ValueError, match=r"file is no folder"):
        checkpoint.find(tmp_path / "file", "auto")
    (tmp_path / "closed").mkdir(mode=0o500)
    if not os.access(tmp_path / "closed", os.W_OK):  # root may write anywhere
        with pytest.raises(ValueError, match=r"closed is not writable"):
            checkpoint.find(tmp_path / "closed" / "out", None)


def test_auto_starts_no_fresh_run_over_damaged_checkpoints_or_a_finished_run(tmp_path):
    flip_a_byte(save(tmp_path, 1) / "state.json")
    with pytest.warns(UserWarning, match="NaN"):
        save(tmp_path, 2, {"model.w": torch.tensor([1.0, float("inf")])})
    message = r"checkpoint-2: contains NaN or infinity; passed over checkpoint-1: state.json.*another --output_dir"
    with pytest.raises(ValueError, match=message):
        checkpoint.find(tmp_path, "auto")
    assert checkpoint.find(tmp_path, str(tmp_path / "checkpoint-2"))[0], "named, it is the user's will"

    finished = tmp_path / "finished"
    finished.mkdir()
    (finished / "all_results.json").write_text("{}")
    for resume in (None, "auto"):
        with pytest.raises(ValueError, match=r"all_results\.json.*--output_dir"):
            checkpoint.find(finished, resume)
