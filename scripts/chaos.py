"""Breaks runs on purpose, and counts how often what docs/reliability.md promises holds.

    python scripts/chaos.py                        # everything: some minutes on 2 cores
    python scripts/chaos.py --seed 1 --only saves damage
    python scripts/chaos.py --sample               # a few tries of each row, as the tests run them

Each module of scripts/scenarios/ has `ROWS`: a title and a function that yields a `Try` for each thing that it breaks.
This prints a table in Markdown, then the tries that went wrong or did not happen. Exit code 1 if any went wrong.
"""

import argparse
import importlib
import io
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]  # scenarios, hftrain, and the small run of the tests

from scenarios import MODULES, Row, Try  # noqa: E402


def rows(module: str) -> list[Row]:
    return importlib.import_module(f"scenarios.{module}").ROWS


def tries(row: Row, seed: int, *, sample: bool = False) -> list[Try]:
    title, function = row
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, redirect_stdout(io.StringIO()):
        return list(function(Path(folder), random.Random(f"{seed} {title}"), sample))


def timed(module: str, number: int, seed: int, sample: bool) -> tuple[list[Try], float]:
    """The tries of the row with this number in a module, and the seconds that they took."""
    began = time.monotonic()
    return tries(rows(module)[number], seed, sample=sample), time.monotonic() - began


def chaos(
    seed: int, modules: Sequence[str] = MODULES, *, sample: bool = False, jobs: int = 2
) -> tuple[str, list[str], list[str]]:
    """Returns the table, and a line for each try that went wrong, and for each that did not happen.

    Args:
        jobs: rows at a time, each in a process of its own.
    """
    lines = ["| what is broken | tries | really happened | right | seconds |", "|---|---|---|---|---|"]
    wrong, missed = [], []
    places = [(module, number) for module in modules for number in range(len(rows(module)))]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(timed, module, number, seed, sample) for module, number in places]
        for (module, number), future in zip(places, futures, strict=True):
            done, seconds = future.result()
            title, happened = rows(module)[number][0], [attempt for attempt in done if attempt.happened]
            passed = sum(attempt.problem is None for attempt in happened)
            lines.append(f"| {title} | {len(done)} | {len(happened)} | {passed}/{len(happened)} | {seconds:.0f} |")
            wrong += [f"wrong: {title}: {attempt.name}: {attempt.problem}" for attempt in done if attempt.problem]
            missed += [f"did not happen: {title}: {attempt.name}" for attempt in done if not attempt.happened]
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines), wrong, missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", default=MODULES, choices=MODULES, metavar="MODULE", help=", ".join(MODULES)
    )
    parser.add_argument("--sample", action="store_true", help="a few tries of each row")
    parser.add_argument("--jobs", type=int, default=2, help="rows at a time, each in its own process (2)")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as cache:  # before anything imports a Hugging Face library
        os.environ |= {"HF_HOME": cache, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        table, wrong, missed = chaos(args.seed, args.only, sample=args.sample, jobs=args.jobs)
    print(table, *wrong, *missed, f"{time.monotonic() - began:.0f} seconds", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
