"""Damage of every file of a run: a byte changed, half of it gone, all of it gone, the file deleted."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from hftrain.data import sealed
from hftrain.train import checkpoint
from scenarios import Row, Try, check
from tests.train.resume_worker import WorkerConfig, train


def harms(draw: random.Random) -> dict[str, Callable[[Path], None]]:
    def a_byte(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(5)  # not bit 5: a blank becomes no other blank
        path.write_bytes(content)

    return {
        "a byte": a_byte,
        "half": lambda path: os.truncate(path, path.stat().st_size // 2),
        "emptied": lambda path: os.truncate(path, 0),
        "deleted": Path.unlink,
    }


def of_files(
    folder: Path, names: list[str], draw: random.Random, sample: bool, promise: Callable[[Path, str], None]
) -> Iterator[Try]:
    tries = [(name, harm) for name in names for harm in harms(draw)]
    for name, harm in draw.sample(tries, 6) if sample else tries:
        out = shutil.copytree(folder, folder.with_name("damaged"))
        harms(draw)[harm](out / name)
        yield Try(f"{name}, {harm}", True, check(lambda out=out, name=name: promise(out, name)))
        shutil.rmtree(out)


def trained(folder: Path) -> Path:
    train(WorkerConfig(output_dir=folder / "out", save_total_limit=3))
    return folder / "out"


def of_a_checkpoint(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    out = trained(folder)
    good, last = checkpoint.checkpoints(out)[-2:]

    def named_and_passed_over(out: Path, name: str) -> None:
        problems = checkpoint.verify(out / last.name)
        assert problems and all(problem.startswith(Path(name).name) for problem in problems), problems
        chosen, notes = checkpoint.find(out, "auto")
        assert chosen == out / good.name and notes == [f"passed over {last.name}: {problems[0]}"], (chosen, notes)

    names = [path.relative_to(out).as_posix() for path in sorted(last.rglob("*")) if path.is_file()]
    yield from of_files(out, names, draw, sample, named_and_passed_over)


def of_the_final_model(folder: Path, draw: random.Random, sample: bool) -> Iterator[Try]:
    out = trained(folder)

    def named(out: Path, name: str) -> None:
        problems = sealed.problems(out)
        assert name != sealed.MANIFEST or (out / name).exists() == sealed.is_sealed(out)
        assert len(problems) == 1 and problems[0].startswith(name), problems

    yield from of_files(out, [*sealed.read_manifest(out)["files"], sealed.MANIFEST], draw, sample, named)


ROWS: list[Row] = [
    ("damage of every file of a checkpoint: named, passed over", of_a_checkpoint),
    ("damage of every file of the final model: named by `hftrain verify`", of_the_final_model),
]
