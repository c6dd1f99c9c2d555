"""`hftrain plan`: what a run will need, before anything starts."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from hftrain.cli.commands import Commands, asks_for_help

if TYPE_CHECKING:
    from hftrain.train.forecast.table import Row
    from hftrain.train.inspect import View

KINDS = {"full": [], "LoRA": ["--use_peft"], "QLoRA": ["--use_peft", "--load_in_4bit"]}
PARTS = ("weights", "gradients", "optimizer", "activations", "exchange", "peak", "checkpoint")


def add(commands: Commands) -> None:
    command = commands.add_parser(
        "plan",
        help="show the memory, the time and the price of a run before it starts",
        usage="hftrain plan RECIPE [options of plan --] [options of the recipe]",
        description="Counts what each way to train the recipe's model needs in memory, on tensors without numbers, and "
        "times a small part of it on this machine. Nothing is trained or written. The exit code is 1 if no row fits.",
        epilog="Options of plan: --memory GIB of a device (default: this machine's GPU, or 80), --num_processes N of "
        "the distributed rows (8), --micro_batch_sizes 1 4 (1 and the recipe's), --price_per_hour P of a device, "
        "--no_timing, --json.",
    )
    command.add_argument("recipe", metavar="RECIPE", help="a name that `hftrain recipes` lists, or a recipe's path")
    command.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="--memory 24 -- --train_file x")
    command.set_defaults(command=plan_recipe, show_help=command.print_help)


def plan_recipe(args: argparse.Namespace) -> int:
    if asks_for_help(args.arguments):
        args.show_help()
        return 0
    from hftrain.cli.recipes import find_recipe, refusal

    options = argparse.ArgumentParser(prog="hftrain plan RECIPE", allow_abbrev=False)
    options.add_argument("--memory", type=float)
    options.add_argument("--num_processes", type=int, default=8)
    options.add_argument("--micro_batch_sizes", type=int, nargs="+")
    options.add_argument("--price_per_hour", type=float)
    options.add_argument("--no_timing", action="store_true")
    options.add_argument("--json", action="store_true")
    split = args.arguments.index("--") if "--" in args.arguments else 0
    chosen, own = options.parse_args(args.arguments[:split]), args.arguments[split:]
    own = own[1:] if own[:1] == ["--"] else own
    if min(chosen.num_processes, *(chosen.micro_batch_sizes or [1])) < 1:
        raise ValueError("--num_processes and --micro_batch_sizes must be at least 1")
    recipe = str(find_recipe(args.recipe))
    if refused := refusal(recipe, own):
        print(refused, end="", file=sys.stderr)
        return 2
    table = make_rows(args.recipe, recipe, own, chosen)
    if chosen.json:
        print(json.dumps([row._asdict() | {"needs": row.needs._asdict()} for row in table], indent=1))
    else:
        show(table)
    return 0 if any(row.fits for row in table) else 1


def make_rows(name: str, recipe: str, own: list[str], chosen: argparse.Namespace) -> list[Row]:
    import torch

    from hftrain.train.forecast import table
    from hftrain.train.forecast.refusal import memory_of

    device = torch.device(torch.accelerator.current_accelerator() or "cpu")
    memory = memory_of(device) if chosen.memory is None and device.type == "cuda" else (chosen.memory or 80) * 2**30
    rows: list[Row] = []
    rate = None
    for kind, more in KINDS.items():
        view = look_at(recipe, [*own, *more])
        if more and not getattr(view.config, "use_peft", False):
            break
        if not more and getattr(view.config, "use_peft", False):
            continue  # the recipe's options ask for adapters
        if kind == "LoRA" and getattr(view.config, "load_in_4bit", False):
            continue
        micro_batches = chosen.micro_batch_sizes or sorted({1, view.config.micro_batch_size or 8})
        if rate is None and not chosen.no_timing:
            try:
                rate = table.probe_rate(view, max(micro_batches), device)
            except ValueError as error:
                print(f"no times: {error}", file=sys.stderr)
        command = f"hftrain run {name} {{launch}}{shlex.join([*own, *more]).replace('{', '{{').replace('}', '}}')} "
        rows += table.rows(
            kind, view, processes=chosen.num_processes, memory=memory, rate=rate,
            micro_batches=micro_batches, price_per_hour=chosen.price_per_hour,
            command=command + "--micro_batch_size {micro}",
        )  # fmt: skip
        if getattr(view.config, "model_name_or_path", None) is None or not hasattr(view.config, "use_peft"):
            break  # adapters need a pretrained model
    return rows


def look_at(recipe: str, arguments: list[str]) -> View:
    """The arguments that the recipe gives to `fit`, with a model without weights."""
    from hftrain.cli.program import run_file
    from hftrain.models.shapes import shapes_only
    from hftrain.train.inspect import Seen, showing_examples

    before = sys.argv
    try:
        with showing_examples(), shapes_only():
            run_file(recipe, arguments)
    except Seen as seen:
        return seen.view
    finally:
        sys.argv = before
    raise ValueError(f"{recipe} does not call fit, so there is nothing to plan")


def show(table: list[Row]) -> None:
    head = ["", "strategy", "devices", "micro-batch", *PARTS, "fits", "on a device of", "s a step", "hours", "price"]
    lines = [head]
    for row in table:
        parts = [f"{getattr(row.needs, part) / 2**30:.2f}" for part in PARTS]
        smallest = f"{row.device_gib} GiB" if row.device_gib else "none"
        times = [number(value) for value in (row.seconds, row.hours, row.price)]
        cells = [row.kind, row.strategy, str(row.processes), str(row.micro_batch_size), *parts]
        lines.append([*cells, "yes" if row.fits else "no", smallest, *times])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    print("GiB of a device, except for the checkpoint, which is on disk; times without the exchange between devices")
    for line in lines:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    if fitting := [row for row in table if row.fits]:
        fewest = min(row.processes for row in fitting)
        first = next(row for row in fitting if row.processes == fewest)
        print(f"\nthe first that fits, with the fewest devices: {first.command}")
    else:
        print("\nnothing fits: add devices (--num_processes), shorten the examples, or set activation_checkpointing")


def number(value: Any) -> str:
    return "" if value is None else f"{value:.3g}"
