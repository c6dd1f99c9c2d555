"""`hftrain verify`: checks that the checkpoints and the final model of a run, or prepared tokens, are unchanged."""

from __future__ import annotations

import argparse
from pathlib import Path

from hftrain.cli.commands import Commands
from hftrain.terminal import visible


def add(commands: Commands) -> None:
    command = commands.add_parser(
        "verify", help="check checkpoints, models or prepared tokens; exit code 1 if one is damaged"
    )
    command.add_argument(
        "folder",
        metavar="DIR",
        type=Path,
        help="an output folder, a checkpoint-N in it, a merged or exported model, or tokens",
    )
    command.set_defaults(command=verify)


def verify(args: argparse.Namespace) -> int:
    from hftrain.data.sealed import MANIFEST, STAGING, is_sealed

    known = ("checkpoint-*", "manifest.json", MANIFEST, STAGING, "tokens.json", "*.safetensors")
    of_checkpoint = args.folder.resolve().name.startswith("checkpoint-") and args.folder.is_dir()
    if not of_checkpoint and not any(any(args.folder.glob(name)) for name in known):
        raise ValueError(f"no checkpoint in {args.folder}: give an output folder, a checkpoint-N in it, or tokens")
    from hftrain.data import tokens  # after what needs no torch
    from hftrain.train.checkpoint import checkpoints

    if not tokens.is_token_folder(args.folder):
        sealed = is_sealed(args.folder)
        damaged = verify_checkpoints(args.folder) if not sealed or checkpoints(args.folder) else False
        if sealed:
            damaged |= verify_model(args.folder)
        elif has_weights(args.folder):
            print(f"final model: not verified, since it has no {MANIFEST} (hftrain 0.1.0 did not write it)")
        return 1 if damaged else 0
    problems = tokens.verify(args.folder)
    print(visible("\n".join(problems) or f"the tokens in {args.folder} are intact"))
    return 1 if problems else 0


def has_weights(folder: Path) -> bool:
    """Whether `folder` itself contains a model and is not a checkpoint."""
    return any(folder.glob("*.safetensors")) and not (folder / "manifest.json").is_file()


def verify_model(folder: Path) -> bool:
    """Prints the state of the model in `folder`; returns whether it is damaged."""
    from hftrain.data.sealed import problems

    faults = problems(folder)
    print(visible(f"final model: {'; '.join(faults) or 'good'}"))
    return bool(faults)


def verify_checkpoints(folder: Path) -> bool:
    """Prints a line for each checkpoint; returns whether one is damaged."""
    from hftrain.train.checkpoint import describe

    rows = describe(folder)
    lines = [("checkpoint", "step", "examples", "MB", "finite", "state")]
    for row in rows:
        samples = "?" if row.samples is None else str(row.samples)
        finite = {True: "yes", False: "NO", None: "?"}[row.finite]
        state = "; ".join(row.problems) or "good"
        lines.append((row.name, str(row.step), samples, f"{row.bytes / 1e6:.1f}", finite, state))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print(visible("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()))
    return any(row.problems for row in rows)
