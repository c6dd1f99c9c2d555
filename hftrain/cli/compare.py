"""`hftrain compare`: the differences of runs in settings, curves and scores."""

from __future__ import annotations

import argparse
from pathlib import Path

from hftrain.cli.commands import Commands
from hftrain.terminal import visible


def add(commands: Commands) -> None:
    command = commands.add_parser(
        "compare", help="compare runs: settings that differ, curves in one chart, scores with their intervals"
    )
    command.add_argument("folders", metavar="OUT", nargs="+", type=Path, help="output folders of two to six runs")
    command.add_argument("--output", metavar="FILE", type=Path, default=Path("compare.html"), help="the page to write")
    command.set_defaults(command=compare)


def compare(args: argparse.Namespace) -> int:
    from hftrain.train.compare import check_page, in_words, read_runs, write_comparison

    check_page(args.output)
    runs = read_runs(args.folders)
    print(visible("\n".join(in_words(runs))))
    print(f"\npage: {write_comparison(args.output, runs)}")
    return 0
