"""Which checkpoints stay in an output folder, and how they are listed."""

from pathlib import Path

import pytest
import torch

from hftrain.train import checkpoint
from tests.train.test_checkpoint import names, save, truncate

# --------------------------------------------------------------------------------------------------------- rotation


def save_nan(output_dir: Path, step: int) -> None:
    with pytest.warns(UserWarning, match="NaN"):
        save(output_dir, step, {"model.w": torch.tensor([float("nan")])})


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for step in (2, 10, 100, 1000):
        save(tmp_path, step)
    assert checkpoint.rotate(tmp_path, keep=4) == []
    assert checkpoint.rotate(tmp_path, keep=1, best=tmp_path / "checkpoint-10") == [
        tmp_path / "checkpoint-2",
        tmp_path / "checkpoint-100",
    ]
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-1000"]


@pytest.mark.parametrize("spoil", ["nan", "damaged"])
def test_rotation_keeps_the_newest_good_one_behind_newer_bad_ones(tmp_path, spoil):
    for step in (1, 2):
        save(tmp_path, step)
    for step in (3, 4):
        if spoil == "nan":
            save_nan(tmp_path, step)
        else:
            truncate(save(tmp_path, step) / "training-00001.safetensors")
    assert checkpoint.rotate(tmp_path, keep=1) == [tmp_path / "checkpoint-1", tmp_path / "checkpoint-3"]
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]


def test_rotation_does_not_read_what_was_saved_now_again_but_asks_whether_it_is_finite(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    folder = save(tmp_path, 3)
    truncate(folder / "training-00001.safetensors")  # would show, if it were read
    deleted = checkpoint.rotate(tmp_path, keep=1, saved_now=folder)
    assert deleted == [tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"]
    save_nan(tmp_path, 4)
    save(tmp_path, 2)
    assert checkpoint.rotate(tmp_path, keep=1, saved_now=tmp_path / "checkpoint-4") == [tmp_path / "checkpoint-3"]
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]


def test_describe_lists_good_and_bad(tmp_path):
    save(tmp_path, 9)
    save_nan(tmp_path, 10)
    (save(tmp_path, 11) / "manifest.json").unlink()
    (tmp_path / ".saving-checkpoint-12").mkdir()
    rows = checkpoint.describe(tmp_path)
    assert [(row.name, row.step, row.samples, row.finite) for row in rows] == [
        ("checkpoint-9", 9, 640, True),
        ("checkpoint-10", 10, 640, False),
        ("checkpoint-11", 11, None, None),
    ]
    assert [len(row.problems) for row in rows] == [0, 0, 1]
    assert rows[0].bytes == sum(path.stat().st_size for path in (tmp_path / "checkpoint-9").iterdir())
    assert checkpoint.describe(tmp_path / "checkpoint-10") == rows[1:2]
    with pytest.raises(ValueError, match=r"no checkpoint in .*nowhere: give an output folder"):
        checkpoint.describe(tmp_path / "nowhere")
