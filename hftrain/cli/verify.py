"""`hftrain verify`: whether the checkpoints of a run, or prepared tokens, are as they were written."""

import argparse
from pathlib import Path
from typing import Any

from hftrain.terminal import visible


def add(commands: Any) -> None:
    command = commands.add_parser("verify", help="check checkpoints or prepared tokens; exit code 1 if one is damaged")
    command.add_argument("folder", metavar="DIR", type=Path, help="an output folder, a checkpoint-N in it, or tokens")
    command.set_defaults(command=verify)


def verify(args: argparse.Namespace) -> int:
    from hftrain.data import tokens

    if not tokens.is_token_folder(args.folder):
        return verify_checkpoints(args)
    problems = tokens.verify(args.folder)
    print(visible("\n".join(problems) or f"the tokens in {args.folder} are as they were written"))
    return 1 if problems else 0


def verify_checkpoints(args: argparse.Namespace) -> int:
    from hftrain.checkpoint import describe

    rows = describe(args.folder)
    lines = [("checkpoint", "step", "examples", "MB", "finite", "state")]
    for row in rows:
        samples = "?" if row.samples is None else str(row.samples)
        finite = {True: "yes", False: "NO", None: "?"}[row.finite]
        state = "; ".join(row.problems) or "good"
        lines.append((row.name, str(row.step), samples, f"{row.bytes / 1e6:.1f}", finite, state))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print(visible("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()))
    return 1 if any(row.problems for row in rows) else 0
