"""Breaks runs on purpose, and counts how often what is promised in docs/reliability.md holds.

    python scripts/chaos.py                        # everything: some minutes on 2 cores
    python scripts/chaos.py --seed 1 --only saves damage
    python scripts/chaos.py --sample               # a few tries of each row, as the tests run them

Each module in scripts/scenarios/ has `ROWS`: a title and a function that yields a `Try` for each thing it breaks. This
prints a table in Markdown, then what went wrong. Exit code 1 if anything did.
"""

import argparse
import importlib
import io
import os
import pkgutil
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT), str(ROOT / "tests")]  # scenarios, hftrain, and the tests' small run
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import scenarios  # noqa: E402


def chaos(seed: int, only: Sequence[str] = (), *, sample: bool = False) -> tuple[str, list[str]]:
    """Runs the rows of the modules `only` (default: all); returns the table and a line for each try that went wrong."""
    lines = ["| what is broken | tries | really happened | right | seconds |", "|---|---|---|---|---|"]
    wrong: list[str] = []
    names = sorted(module.name for module in pkgutil.iter_modules(scenarios.__path__))
    if unknown := set(only) - set(names):
        raise SystemExit(f"no scenarios {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    for name in only or names:
        for title, function in importlib.import_module(f"scenarios.{name}").ROWS:
            began = time.monotonic()
            draw = random.Random(f"{seed} {title}")
            with tempfile.TemporaryDirectory(prefix="chaos-") as folder, redirect_stdout(io.StringIO()):
                tries = list(function(Path(folder), draw, sample))
            happened = sum(attempt.happened for attempt in tries)
            right = sum(attempt.problem is None for attempt in tries)
            seconds = time.monotonic() - began
            lines.append(f"| {title} | {len(tries)} | {happened} | {right}/{len(tries)} | {seconds:.0f} |")
            wrong += [f"{title}: {attempt.name}: {attempt.problem}" for attempt in tries if attempt.problem is not None]
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines), wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=(), metavar="MODULE", help="modules of scripts/scenarios")
    parser.add_argument("--sample", action="store_true", help="a few tries of each row")
    args = parser.parse_args()
    table, wrong = chaos(args.seed, args.only, sample=args.sample)
    print(table, *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
