"""Every aim of speed in one table, measured now: which are reached, and by how much the others are missed.

    python bench/table.py --rounds 5               # the benchmarks that have aims, then the table
    python bench/table.py --quick                  # a few steps each, to see that it runs

The benchmarks run one after another, each `--together` (in one process), except that of memory. Their own tables go to
standard error, the aims to standard output, as Markdown.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

BENCHMARKS = ("start", "overhead", "padding", "language", "memory", "dpo", "beams")
ELSEWHERE = [
    ("data pipeline / a step: see docs/log.md", "<= 2 %"),
    ("padding of all defaults: the column in the tables of each benchmark", "<= 5 %"),
    ("on a GPU: what `bench/gpu.py` prints", ""),
]
MEMORY = ["language.py", "--steps", "25", "--contestants", "memory: TRL", "memory: hftrain"]  # enough to choose a cut


def aims(name: str, arguments: list[str]) -> list[str]:
    """The rows of the benchmark's table of aims."""
    file, *own = MEMORY if name == "memory" else [f"{name}.py", "--together"]
    command = [sys.executable, str(Path(__file__).with_name(file)), *own, *arguments]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    print(printed, file=sys.stderr, flush=True)
    _, _, table = printed.partition("| aim | | measured | |\n|---|---|---|---|\n")
    return table.strip().splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a few steps each")
    args = parser.parse_args()
    arguments = ["--quick"] if args.quick else ["--rounds", str(args.rounds)]
    rows = [row for name in args.benchmarks for row in aims(name, arguments)]
    print(f"{time.strftime('%Y-%m-%d')}\n\n| aim | | measured | |\n|---|---|---|---|")
    print("\n".join([*rows, *(f"| {name} | {aim} | not measured | |" for name, aim in ELSEWHERE)]))


if __name__ == "__main__":
    main()
