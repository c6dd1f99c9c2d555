"""`hftrain slurm`: a batch script of `scripts/slurm/`, filled in for a recipe. It is submitted only with --submit."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

from hftrain.cli import program
from hftrain.cli.commands import Commands, asks_for_help
from hftrain.cli.recipes import PACKAGE, find_recipe, parses

SBATCH = ("time", "partition", "account", "qos", "constraint", "mem", "cpus_per_task", "job_name", "signal")


def add(commands: Commands) -> None:
    command = commands.add_parser(
        "slurm",
        help="write a Slurm batch script that runs a recipe",
        usage="hftrain slurm RECIPE [options of Slurm] [options of accelerate launch --] [options of the recipe]",
        description="Prints a batch script that runs a recipe on the GPUs of one or many nodes, saves before the time "
        "limit and continues in the next job.",
        allow_abbrev=False,
    )
    command.add_argument(
        "recipe", metavar="RECIPE", help="a name that `hftrain recipes` lists, or the path of a recipe"
    )
    command.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="as for `hftrain run`")
    add_options(command)
    command.set_defaults(command=write_script, show_help=command.print_help)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--gpus_per_node", type=int, default=8, help="GPUs and processes per node; default: %(default)s"
    )
    for name in SBATCH:
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"option of sbatch: --{name.replace('_', '-')}")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the script to this file; default: print it")
    parser.add_argument("--submit", action="store_true", help="also submit it with sbatch")


def write_script(args: argparse.Namespace) -> int:
    if asks_for_help(args.arguments):
        args.show_help()
        return 0
    # The options may also follow RECIPE, where argparse would leave them to the recipe; but not "--".
    own = argparse.ArgumentParser(prog="hftrain slurm", add_help=False, allow_abbrev=False)
    add_options(own)
    split = args.arguments.index("--") if "--" in args.arguments else len(args.arguments)
    args, unknown = own.parse_known_args(args.arguments[:split], args)
    after = args.arguments[split + 1 :]
    launch, options = (unknown, after) if split < len(args.arguments) else ([], unknown)
    if min(args.nodes, args.gpus_per_node) < 1:
        raise ValueError("--nodes and --gpus_per_node must be at least 1")
    if args.time and not re.fullmatch(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|INFINITE|UNLIMITED", args.time.upper()):
        raise ValueError(f"--time {args.time}: write minutes, hours:minutes:seconds, or days-hours (24:00:00; 1-12)")
    recipe = find_recipe(args.recipe)
    check_options(recipe, options)
    if launch:
        check_launch(launch)
    script = fill_in(
        args.recipe if args.recipe == recipe.stem else str(recipe.resolve()),
        launch,
        options,
        nodes=args.nodes,
        gpus_per_node=args.gpus_per_node,
        sbatch={name: getattr(args, name) for name in SBATCH if getattr(args, name) is not None},
    )
    if args.output:
        args.output.write_text(script)
        print(f"wrote {args.output}" + ("" if args.submit else f"; submit it with: sbatch {args.output}"))
    elif not args.submit:
        print(script, end="")
    if args.submit:
        try:
            return subprocess.run(["sbatch"], input=script, text=True).returncode
        except FileNotFoundError:
            raise ValueError("--submit: sbatch was not found; write the script with --output FILE") from None
    return 0


def check_launch(options: list[str]) -> None:
    """Raises: ValueError, `accelerate launch` would refuse them, after the job has waited in the queue."""
    from accelerate.commands.launch import launch_command_parser

    parsed, unknown = launch_command_parser().parse_known_args([*options, "recipe"])
    if unknown or parsed.training_script != "recipe":
        wrong = (unknown or [parsed.training_script])[0]
        raise ValueError(
            f"{wrong}: not an option of hftrain slurm or accelerate launch; options of the recipe follow --"
        )
    if parsed.config_file and not Path(parsed.config_file).is_file():
        raise ValueError(
            f"--config_file {parsed.config_file}: the file does not exist in this folder, where the job runs"
        )


def check_options(recipe: Path, options: list[str]) -> None:
    """Raises: ValueError, the recipe would refuse them. Recipes that `parses` does not recognize are not checked."""
    if parses(recipe):
        words = [sys.executable, program.FILE, str(recipe), *options, "--print_config=as_given"]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            message = done.stderr.strip() or f"{recipe} --print_config ended with code {done.returncode}"
            raise ValueError(f"the recipe refuses its options:\n{message}")


def fill_in(
    recipe: str, launch: list[str], options: list[str], *, nodes: int, gpus_per_node: int, sbatch: dict[str, str]
) -> str:
    """The batch script for this many nodes. `sbatch`: values of its options, which replace those of the template."""
    packaged = PACKAGE / "_recipes" / "slurm"
    folder = packaged if packaged.is_dir() else PACKAGE.parent / "scripts" / "slurm"
    script = (folder / ("one_node.sbatch" if nodes == 1 else "many_nodes.sbatch")).read_text(encoding="utf-8")
    words = [word.partition("=")[0].replace("-", "_") for word in options]
    if "__resume_from_checkpoint" not in words:
        # otherwise the second job would refuse the folder of the first
        options = [*options, "--resume_from_checkpoint", "auto"]
    if "cpus_per_task" in sbatch:  # a part of a node
        script = re.sub(r"^#SBATCH --(exclusive|mem=0)\b.*\n", "", script, flags=re.MULTILINE)
    values = {"job_name": Path(recipe).stem, "nodes": str(nodes), "gpus_per_node": str(gpus_per_node), **sbatch}
    for name, value in values.items():
        line = f"#SBATCH --{name.replace('_', '-')}={shlex.quote(value)}"
        script, replaced = re.subn(rf"^{line.partition('=')[0]}=\S+", _literally(line), script, flags=re.MULTILINE)
        if not replaced:
            script = script.replace("#SBATCH --time=", f"{line}\n#SBATCH --time=", 1)
    for name, text in {
        "gpus_per_node": str(gpus_per_node),
        "recipe": shlex.quote(recipe),
        "launch": f"({shlex.join(launch)})",
        "options": f"({shlex.join(options)})",
    }.items():
        script = re.sub(rf"^{name}=.*$", _literally(f"{name}={text}"), script, flags=re.MULTILINE)
    return script


def _literally(text: str) -> str:
    return text.replace("\\", r"\\")
