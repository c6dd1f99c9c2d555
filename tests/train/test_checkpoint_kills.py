"""Kills in the middle of a save, full disks and quotas: what was saved before stays."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from hftrain.train import checkpoint
from tests import ROOT
from tests.train.test_checkpoint import STATE, names, no_file_over, save, whole, write_config

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


# ----------------------------------------------------------------------------------------------------- interruptions


def test_leftovers_of_a_kill_are_ignored_then_cleared_away_or_put_back(tmp_path):
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / ".saving-checkpoint-2")
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / ".deleting-checkpoint-0")
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / ".replaced-checkpoint-1")
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / ".replaced-checkpoint-2")
    assert checkpoint.checkpoints(tmp_path) == [tmp_path / "checkpoint-1"]
    with checkpoint.lock(tmp_path):
        assert names(tmp_path) == [".lock", "checkpoint-1", "checkpoint-2"]
    (tmp_path / ".saving-checkpoint-3").mkdir()
    (tmp_path / ".saving-checkpoint-3" / "left.over").write_text("x")
    assert "left.over" not in names(save(tmp_path, 3))
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_a_second_save_of_a_step_replaces_the_first(tmp_path):
    save(tmp_path, 1)
    folder = save(tmp_path, 1, {"model.w": torch.zeros(3)}, state={"samples_seen": 7})
    assert checkpoint.verify(folder) == [] and names(tmp_path) == ["checkpoint-1"]
    assert checkpoint.read(folder).state == {"samples_seen": 7}
    assert checkpoint.read(folder).tensors["model.w"].tolist() == [0, 0, 0]


# Children are forked from a process that has imported everything, so that 30 kills take seconds and not minutes.
KILLS = """
import json, os, random, signal, sys, time
import torch
from pathlib import Path
from accelerate import Accelerator
from hftrain.distributed import Piece
from hftrain.train import checkpoint

output_dir, accelerator = Path(sys.argv[1]), Accelerator()

def tensors(step, life):
    generator = torch.Generator().manual_seed(1000 * step + life)
    return {f"{kind}.{i}": torch.randn(200, generator=generator) for kind in ("model", "optimizer") for i in range(5)}

def save_for_ever(life, acknowledge):
    with checkpoint.lock(output_dir):
        newest, _ = checkpoint.find(output_dir, "auto")
        step = checkpoint.read(newest).step if newest else 0  # the first save replaces the one that stands there
        while True:
            checkpoint.save(
                accelerator, output_dir, step, contract={},
                pieces=[Piece.whole(name, tensor) for name, tensor in tensors(step, life).items()],
                state={"samples_seen": 8 * step, "life": life}, max_file_bytes=3000,
                export=lambda folder: (folder / "config.json").write_text(str(step)),
            )
            os.write(acknowledge, b"%d\\n" % step)
            checkpoint.rotate(output_dir, keep=2)
            step += 1

random.seed(0)
acknowledged, interrupted, seconds = -1, 0, 0.0  # seconds: what the last save took, on a machine as busy as now
for life in range(30):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        save_for_ever(life, writer)
    os.close(writer)
    answers = os.fdopen(reader)
    saves, part = divmod(random.uniform(0, 4) if life else 3, 1)  # the kill comes in this part of the save after these
    for _ in range(int(saves)):
        began = time.monotonic()
        acknowledged = max(acknowledged, int(answers.readline()))
        seconds = time.monotonic() - began
    time.sleep(part * seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    acknowledged = max([acknowledged, *map(int, answers.read().split())])
    interrupted += any(output_dir.glob(".saving-*"))
    with checkpoint.lock(output_dir):
        newest, passed_over = checkpoint.find(output_dir, "auto")
    assert passed_over == [], passed_over
    assert all(row.problems == [] for row in checkpoint.describe(output_dir))
    saved = checkpoint.read(newest)
    assert saved.step >= acknowledged, "a save that had returned is gone"
    expected = tensors(saved.step, saved.state["life"])
    assert list(saved.tensors) == list(expected)
    assert all(torch.equal(saved.tensors[name], tensor) for name, tensor in expected.items())
print(json.dumps({"steps": saved.step, "interrupted": interrupted}))
"""


def test_thirty_kills_lose_nothing_that_was_saved(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path / "out")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 0, process.stderr
    told = json.loads(process.stdout.splitlines()[-1])
    assert told["steps"] >= 10 and told["interrupted"] >= 5, told  # the kills did fall into saves
    assert process.stdout.count("took over the lock") > 20


# -------------------------------------------------------------------------------------------------------- full disk


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def megabytes(count: int) -> dict[str, torch.Tensor]:
    return {f"optimizer.{number}": torch.randn(250_000) for number in range(count)}


def save_too_much(output_dir: Path, **settings) -> str:
    drained = []

    def tensors():
        for name, tensor in megabytes(6).items():
            yield name, tensor
            drained.append(name)

    settings = {"state": STATE, "contract": {}, "export": write_config, "max_file_bytes": 1_500_000, **settings}
    with pytest.warns(UserWarning) as warned:
        assert checkpoint.save(Accelerator(), output_dir, 2, pieces=whole(tensors()), **settings) is None
    assert len(drained) == 6, "other ranks would wait for this one in their collectives"
    return str(warned[0].message)


def test_a_full_disk_costs_one_checkpoint_and_a_warning(small_disk):
    save(small_disk, 1, megabytes(1))
    message = save_too_much(small_disk)
    assert "checkpoint-2 was not saved" in message and "No space left on device" in message
    assert re.search(r"needs about 0\.006 GB; .* has 0\.002 GB free", message)
    assert names(small_disk) == ["checkpoint-1"] and checkpoint.verify(small_disk / "checkpoint-1") == []

    def big_export(folder: Path) -> None:
        (folder / "config.json").write_text("x" * 4_000_000)

    assert "No space left on device" in save_too_much(small_disk, export=big_export)
    assert names(small_disk) == ["checkpoint-1"] and checkpoint.verify(small_disk / "checkpoint-1") == []
    assert save(small_disk, 3, megabytes(1)), "the next one that fits is saved"


def test_a_second_save_of_a_step_that_does_not_fit_keeps_the_first(small_disk):
    before = megabytes(1)
    save(small_disk, 2, before)
    save_too_much(small_disk)
    tensors = checkpoint.read(small_disk / "checkpoint-2").tensors
    assert torch.equal(tensors["optimizer.0"], before["optimizer.0"])


def test_a_quota_is_taken_like_a_full_disk(tmp_path):
    save(tmp_path, 1)
    with no_file_over(500_000):
        assert "File too large" in save_too_much(tmp_path)
    assert names(tmp_path) == ["checkpoint-1"]


def test_an_error_that_is_not_the_disks_is_raised(tmp_path):
    def export(folder: Path) -> None:
        raise RuntimeError("no such layer")

    with pytest.raises(RuntimeError, match="no such layer"):
        save(tmp_path, 1, export=export)
    with pytest.raises(ValueError, match=r"contract key model\.path: .*PosixPath is not JSON"):
        save(tmp_path, 1, contract={"model": {"path": tmp_path}})
    with pytest.raises(KeyError, match="samples_seen"):
        save(tmp_path, 1, state={})
    assert checkpoint.checkpoints(tmp_path) == []


def test_free_space_is_checked_before_the_first_step(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    checkpoint.check_free_space(tmp_path / "not" / "yet", free // 4, copies=2)
    with pytest.raises(
        ValueError, match=r"need 2 x .* GB, .* has .* GB free: lower --save_total_limit, or .*--output_dir"
    ):
        checkpoint.check_free_space(tmp_path / "not" / "yet", free, copies=2)
    save(tmp_path, 1)
    with pytest.raises(ValueError, match="need 2 x"):
        checkpoint.check_free_space(tmp_path, free, copies=3)  # one of the three stands there already
    checkpoint.check_free_space(tmp_path, free // 2, copies=2)
