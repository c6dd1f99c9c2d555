"""A checkpoint that two processes write together, each its own pieces: read back by any number, in any ranges."""

import json
import os
import shutil
import threading
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import multiprocessing

from hftrain.distributed import Piece
from hftrain.train import checkpoint
from tests.programs import free_port
from tests.train.test_checkpoint import STATE, flip_a_byte, names, no_file_over, same_bytes, save, write_config


def tensors() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "model.matrix": torch.randn(7, 5, generator=draw),
        "model.half": torch.randn(9, generator=draw).bfloat16(),
        "optimizer.matrix.exp_avg": torch.randn(7, 5, generator=draw),
        "optimizer.matrix.step": torch.tensor(3.0),
        "ema.empty": torch.empty(0, 3),
    }


def shares(rank: int) -> list[Piece]:
    """Rows of a matrix as FSDP2 has them, an odd part of another as ZeRO has it, and small ones on rank 0."""
    whole = tensors()
    rows = slice(0, 4) if rank == 0 else slice(4, 7)
    part = slice(0, 17) if rank == 0 else slice(17, 35)
    half = slice(0, 5) if rank == 0 else slice(5, 9)
    pieces = [
        Piece("model.matrix", (7, 5), 5 * rows.start, whole["model.matrix"][rows]),
        Piece("model.half", (9,), half.start, whole["model.half"][half]),
        Piece("optimizer.matrix.exp_avg", (7, 5), part.start, whole["optimizer.matrix.exp_avg"].flatten()[part]),
    ]
    small = [Piece.whole(name, whole[name]) for name in ("optimizer.matrix.step", "ema.empty")]
    return pieces + small if rank == 0 else pieces


def join(rank: int, port: int) -> Accelerator:
    """One of two processes that were forked, to be quick; so the parent's state came along."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator()


def work(rank: int, port: int, folder: str) -> None:
    accelerator, output_dir, outcomes = join(rank, port), Path(folder), {}
    background = checkpoint.Background()
    threads = []

    def begin(step: int, pieces: list[Piece]) -> None:
        what = {"pieces": background.copy(pieces), "lasting": True, "state": STATE, "contract": {}}
        then = lambda folder: threads.append(threading.current_thread().name)  # noqa: E731
        what |= {"export": write_config, "sharded": True, "max_file_bytes": 200, "then": then}
        background.start(checkpoint.write, accelerator, output_dir, step, **what)

    pieces = shares(rank)
    begin(1, pieces)
    for piece in pieces:
        piece.values.fill_(9)  # training goes on
    outcomes["first"] = str(background.finish().folder)
    large = [Piece("model.large", (400_000,), 200_000 * rank, torch.ones(200_000))]
    with no_file_over(100_000) if rank == 1 else no_file_over(10**9):  # the disk of the second machine is full
        begin(2, large)
        with warnings.catch_warnings(record=True) as warned:
            outcomes["second"] = str(background.finish().folder)
    outcomes["after"] = background.finish()
    messages = [str(warning.message) for warning in warned]
    if rank == 0:
        assert threads == ["hftrain save"]
        assert any("checkpoint-2 was not saved: [Errno 27] File too large" in message for message in messages), messages
    else:
        assert messages == []
    (output_dir / f"rank-{rank}.json").write_text(json.dumps(outcomes))
    accelerator.end_training()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    multiprocessing.start_processes(work, args=(int(free_port()), str(folder)), nprocs=2, start_method="fork")
    return folder


def test_both_processes_learn_of_a_save_in_the_background(saved):
    outcomes = [json.loads((saved / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] == {"first": str(saved / "checkpoint-1"), "second": "None", "after": None}
    assert not list(saved.glob(".saving*")) and not (saved / "checkpoint-2").exists()


def test_pieces_of_two_processes_are_read_back_complete_and_in_any_range(saved):
    stored = checkpoint.read(saved / "checkpoint-1").tensors
    expected = tensors()
    assert set(stored) == set(expected)
    for name, tensor in expected.items():
        about = stored.describe(name)
        assert (about.shape, about.dtype) == (tensor.shape, tensor.dtype)
        assert same_bytes(stored[name], tensor) and stored[name].shape == tensor.shape
        flat = tensor.flatten()
        for start in range(len(flat)):
            for end in range(start, len(flat) + 1):
                assert torch.equal(stored.part(name, start, end - start), flat[start:end]), (name, start, end)


def test_an_unsharded_checkpoint_is_read_in_any_range_too(tmp_path):
    stored = checkpoint.read(save(tmp_path, 1, tensors())).tensors
    for name, tensor in tensors().items():
        assert stored.describe(name).shape == tensor.shape
        flat = tensor.flatten()
        for start in range(len(flat)):
            assert torch.equal(stored.part(name, start, 1), flat[start : start + 1])
        assert torch.equal(stored.part(name, 0, len(flat)), flat)


def test_the_manifest_names_shapes_types_and_places_of_pieces(saved):
    folder = saved / "checkpoint-1"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format"], manifest["world_size"]) == (2, 2)
    about = manifest["tensors"]["model.matrix"]
    assert (about["dtype"], about["shape"]) == ("F32", [7, 5])
    assert [piece[1:] for piece in about["pieces"]] == [[0, 20], [20, 15]]
    assert [piece[0][:11] for piece in about["pieces"]] == ["shard-00000", "shard-00001"]
    assert {name for name in names(folder) if name.startswith("shard")} <= set(manifest["files"])


@pytest.mark.parametrize("harm", [flip_a_byte, Path.unlink], ids=["flipped", "missing"])
def test_a_damaged_or_missing_shard_is_named(saved, tmp_path, harm):
    folder = shutil.copytree(saved / "checkpoint-1", tmp_path / "checkpoint-1")
    harm(folder / "shard-00001-00001.safetensors")
    (problem,) = checkpoint.verify(folder)
    assert problem.startswith("shard-00001-00001.safetensors: ")
    with pytest.raises(ValueError, match=r"shard-00001-00001\.safetensors"):
        checkpoint.read(folder)


def test_pieces_that_leave_a_gap_are_not_taken_for_a_checkpoint(tmp_path):
    gap = [Piece("model.w", (9,), 0, torch.ones(4))]
    with pytest.raises(AssertionError, match=r"the pieces of model\.w \[9\] end at 4"):
        checkpoint.save(
            Accelerator(), tmp_path, 1, pieces=gap, state=STATE, contract={}, export=write_config, sharded=True
        )
    assert checkpoint.checkpoints(tmp_path) == []


def test_an_error_in_the_background_is_raised_in_the_main_thread(tmp_path):
    background = checkpoint.Background()

    def export(folder: Path) -> None:
        raise RuntimeError("no such layer")

    what = {"pieces": [], "state": STATE, "contract": {}, "export": export}
    background.start(checkpoint.write, Accelerator(), tmp_path, 1, **what)
    with pytest.raises(RuntimeError, match="no such layer"):
        background.finish()


def test_a_run_whose_copies_do_not_fit_writes_while_it_waits():
    assert checkpoint.memory_lacks(10**6) is None
    assert "GB of free memory, more than half" in checkpoint.memory_lacks(10**15)
