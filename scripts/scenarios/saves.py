"""Kills in a save: at every call that changes the disk, of a checkpoint and of the final model, and at random times."""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from hftrain.data import sealed
from hftrain.distributed import Piece
from hftrain.train import checkpoint
from scenarios import Row, Try, check, fork, killed, wait


def tensors_of(step: int, life: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + life)
    return {f"{kind}.{i}": torch.randn(300, generator=generator) for kind in ("model", "optimizer") for i in range(4)}


def save(folder: Path, step: int, life: int) -> None:
    """Two shards and an export."""
    checkpoint.save(
        Accelerator(),
        folder,
        step,
        pieces=[Piece.whole(name, tensor) for name, tensor in tensors_of(step, life).items()],
        contract={"seed": 1},
        state={"samples_seen": step, "life": life},
        export=lambda place: (place / "config.json").write_text(str(step)),
        max_file_bytes=3000,
    )
    checkpoint.rotate(folder, keep=2)


def newest_is_whole(folder: Path, at_least: int) -> None:
    """The next start finds every checkpoint good, and the newest is bit-equal to what was saved."""
    with checkpoint.lock(folder):
        newest, passed_over = checkpoint.find(folder, "auto")
    assert passed_over == [] and newest is not None, passed_over
    assert all(row.problems == [] for row in checkpoint.describe(folder))
    assert not list(folder.glob(".*checkpoint*")), "leftovers"
    saved = checkpoint.read(newest)
    assert saved.step >= at_least, f"step {saved.step}, though {at_least} was saved"
    expected = tensors_of(saved.step, saved.state["life"])
    assert all(torch.equal(saved.tensors[name], tensor) for name, tensor in expected.items())


def kill_points(calls: int, draw: random.Random, sample: bool) -> list[int]:
    return sorted(draw.sample(range(calls), min(5, calls))) if sample else list(range(calls))


def in_a_checkpoint(folder: Path, draw: random.Random, sample: bool, step: int = 3) -> Iterator[Try]:
    before = folder / "before"
    for earlier in (1, 2):
        save(before, earlier, life=0)
    whole = shutil.copytree(before, folder / "whole")
    _, calls = killed(lambda: save(whole, step, life=1), None)
    for call in kill_points(calls, draw, sample):
        out = shutil.copytree(before, folder / f"out-{call}")
        happened, _ = killed(lambda out=out: save(out, step, life=1), call)
        yield Try(f"kill at call {call} of {calls}", happened, check(lambda out=out: newest_is_whole(out, at_least=2)))
        shutil.rmtree(out)


def in_a_checkpoint_that_is_replaced(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    yield from in_a_checkpoint(folder, draw, sample, step=2)


def join(rank: int, port: str) -> Accelerator:
    """One of two processes, in a fork of a process that is alone."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator()


def save_shards(folder: Path, step: int, rank: int, port: str) -> None:
    """One of two processes, which save their halves of all tensors in the background."""
    accelerator, halves = join(rank, port), []
    for name, tensor in tensors_of(step, 0).items():
        start, end = (0, 160) if rank == 0 else (160, 300)
        halves.append(Piece(name, (300,), start, tensor[start:end]))
    background = checkpoint.Background()
    background.start(
        checkpoint.write,
        accelerator,
        folder,
        step,
        pieces=background.copy(halves),
        contract={"seed": 1},
        state={"samples_seen": step, "life": 0},
        export=lambda place: (place / "config.json").write_text(str(step)),
        sharded=True,
        then=lambda saved: checkpoint.rotate(folder, keep=2, saved_now=saved),
    )
    background.finish()
    accelerator.wait_for_everyone()


def killed_of_two(folder: Path, step: int, victim: int, at: int | None) -> tuple[bool, int]:
    """Like `killed`, in one of two processes; the other one waits for it, and is killed later."""
    from tests.programs import free_port

    port = free_port()

    def survive() -> None:
        with suppress(RuntimeError) if at is not None else nullcontext():  # rank 0 has the store
            save_shards(folder, step, 1 - victim, port)

    other = fork(survive)
    try:
        return killed(lambda: save_shards(folder, step, victim, port), at)
    finally:
        if at is not None:
            time.sleep(0.3)  # it must not finish alone
            os.kill(other, signal.SIGKILL)
        code = wait(other)
        assert at is not None or code == 0


def in_a_sharded_checkpoint(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    before = folder / "before"
    for earlier in (1, 2):
        killed_of_two(before, earlier, 0, None)
    for victim in (0, 1):
        _, calls = killed_of_two(shutil.copytree(before, folder / f"whole-{victim}"), 3, victim, None)
        for call in kill_points(calls, draw, sample)[: 2 if sample else None]:
            out = shutil.copytree(before, folder / f"out-{victim}-{call}")
            happened, _ = killed_of_two(out, 3, victim, call)
            problem = check(lambda out=out: newest_is_whole(out, at_least=2))
            yield Try(f"rank {victim}: kill at call {call} of {calls}", happened, problem)
            shutil.rmtree(out)


def save_model(folder: Path, step: int) -> None:
    with sealed.moved_in(folder, step=step) as staging:
        for name, tensor in tensors_of(step, 0).items():
            save_file({name: tensor}, staging / f"{name}-{step}.safetensors")
        (staging / "config.json").write_text(str(step))


def in_the_final_model(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    before = folder / "before"
    save_model(before, 1)
    whole = shutil.copytree(before, folder / "whole")
    _, calls = killed(lambda: save_model(whole, 2), None)

    def good_or_known(out: Path) -> None:
        """One of the two models is good, or `verify` reports that neither is; saving again repairs it."""
        if not sealed.problems(out):
            step = sealed.read_manifest(out)["step"]
            assert all(name in ("config.json",) or f"-{step}." in name for name in sealed.read_manifest(out)["files"])
        save_model(out, 2)
        assert sealed.problems(out) == []
        for name, tensor in tensors_of(2, 0).items():
            assert torch.equal(load_file(out / f"{name}-2.safetensors")[name], tensor)

    for call in kill_points(calls, draw, sample):
        out = shutil.copytree(before, folder / f"out-{call}")
        happened, _ = killed(lambda out=out: save_model(out, 2), call)
        yield Try(f"kill at call {call} of {calls}", happened, check(lambda out=out: good_or_known(out)))
        shutil.rmtree(out)


def in_a_run(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    """Training processes killed while they save; the run that goes on is the unbroken one, bit for bit."""
    from tests.train.resume_worker import WorkerConfig, exit_codes, fork, trace, train

    settings = {"save_steps": 1, "width": 128, "ema_decay": 0.9}
    train(WorkerConfig(output_dir=folder / "unbroken", **settings))
    out = folder / "out"
    config = WorkerConfig(output_dir=out, resume_from_checkpoint="auto", **settings)
    for attempt in range(2 if sample else 12):
        (process,) = fork(config)
        saves, seen = 1 + attempt % 2, set()
        while process.is_alive() and len(seen) < saves:
            seen |= {path.name for path in out.glob(".saving-*")}
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.join()
        unfinished = any(out.glob(".saving-*"))
        good = check(lambda: [checkpoint.read(checkpoint_folder) for checkpoint_folder in checkpoint.checkpoints(out)])
        yield Try(f"kill {attempt} in save {saves} of a start", unfinished, good)
    codes = exit_codes(fork(config))

    def equal() -> None:
        assert codes == [0] and trace(out) == trace(folder / "unbroken")

    yield Try("the run that went on is the unbroken one", True, check(equal))


ROWS: list[Row] = [
    ("kill -9 in the save of a checkpoint, at every call that changes the disk", in_a_checkpoint),
    ("kill -9 in a save that replaces a checkpoint, likewise", in_a_checkpoint_that_is_replaced),
    ("kill -9 of one of two processes in a sharded save in the background, likewise", in_a_sharded_checkpoint),
    ("kill -9 in the save of the final model, likewise", in_the_final_model),
    ("kill -9 of a training run while it saves, at random times", in_a_run),
]
