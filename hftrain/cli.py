"""`hftrain`: list, copy and run the recipes, verify checkpoints, predict. Imports what is heavy where it is used."""

import argparse
import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hftrain import __version__

PACKAGE = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> int:
    """The console command. Returns the exit code: 2 for what the user can mend, said in a line on stderr."""
    args = make_parser().parse_args(arguments)
    try:
        return args.command(args)
    except (ValueError, OSError) as error:
        if os.environ.get("HFTRAIN_TRACEBACK"):
            raise
        print(f"hftrain: {error}", file=sys.stderr)
        return 2


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hftrain",
        description="Fine-tune and pretrain Transformers with recipes of one file each.",
        epilog="hftrain COMMAND --help says more. With HFTRAIN_TRACEBACK=1 errors come with a traceback.",
    )
    parser.add_argument("--version", action="version", version=f"hftrain {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser("recipes", help="list the recipes")
    command.set_defaults(command=list_recipes)

    command = commands.add_parser("copy", help="copy a recipe and its configurations, to change them")
    command.add_argument("recipe", metavar="RECIPE", help="a name that `hftrain recipes` lists")
    command.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=Path("."), help="default: here")
    command.set_defaults(command=copy_recipe)

    command = commands.add_parser(
        "run",
        help="train: run a recipe through Accelerate",
        usage="hftrain run RECIPE [options of accelerate launch --] [options of the recipe]",
        epilog="`hftrain run translate --help` lists that recipe's options. Exit code 75: stopped by a signal after a "
        "checkpoint was saved; the command that resumes was printed.",
    )
    command.add_argument(
        "recipe", metavar="RECIPE", help="a name that `hftrain recipes` lists, or the path of a recipe"
    )
    command.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="--num_processes 2 -- --seed 1")
    command.set_defaults(command=run_recipe)

    command = commands.add_parser("verify", help="check the checkpoints of a run; exit code 1 if one is damaged")
    command.add_argument("folder", metavar="DIR", type=Path, help="an output folder, or a checkpoint-N in it")
    command.set_defaults(command=verify_checkpoints)

    command = commands.add_parser("predict", help="predict with a trained model")
    command.add_argument("folder", metavar="OUT", type=Path, help="the output folder of a run: a model or an adapter")
    command.add_argument("texts", metavar="TEXT", nargs="*", help="what to predict from")
    command.add_argument("--file", type=Path, help="read a text a line, or JSON lines if it ends in .jsonl")
    command.add_argument("--column", metavar="NAME", help="the key of the text in a .jsonl file")
    command.add_argument("--output", type=Path, help="write here and not to the screen; JSON lines if --file has them")
    command.add_argument(
        "--source_prefix", metavar="TEXT", default="", help="put before each text, as in training (T5)"
    )
    command.add_argument("--num_beams", type=int, metavar="N", help="default: what the model was saved with")
    command.add_argument("--max_new_tokens", type=int, metavar="N", help="default: what the model was saved with")
    command.add_argument("--batch_size", type=int, metavar="N", default=32, help="texts at a time (default: 32)")
    command.add_argument("--device", help='"cpu", "cuda:1", ... (default: the accelerator if there is one)')
    command.set_defaults(command=predict_texts)
    return parser


# ---- recipes: files in `recipes/` of the repository, in `hftrain/_recipes/` of an installed wheel ----


def recipes_folder() -> Path:
    packaged = PACKAGE / "_recipes"
    return packaged if packaged.is_dir() else PACKAGE.parent / "recipes"


def find_recipe(name: str) -> Path:
    """The file of a recipe that has this name, or is at this path.

    Raises:
        ValueError: there is none; the names there are.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise ValueError(f"there is no recipe file {name}")
        return Path(name)
    recipes = {path.stem: path for path in sorted(recipes_folder().glob("*.py"))}
    if name not in recipes:
        raise ValueError(f"no recipe {name!r}: there are {', '.join(recipes)}; or give the path of a recipe (x.py)")
    return recipes[name]


def list_recipes(args: argparse.Namespace) -> int:
    recipes = sorted(recipes_folder().glob("*.py"))
    width = max((len(path.stem) for path in recipes), default=0)
    for path in recipes:
        lines = (ast.get_docstring(ast.parse(path.read_bytes())) or "").splitlines()
        print(f"{path.stem:{width}}  {lines[0] if lines else ''}".rstrip())
    return 0


def copy_recipe(args: argparse.Namespace) -> int:
    """Copies the recipe, and of `configs/` what mentions the recipe's file. Overwrites nothing that differs."""
    recipe = find_recipe(args.recipe)
    configs = [path for path in sorted(recipe.parent.glob("configs/*.yaml")) if recipe.name in path.read_text("utf-8")]
    copies = {path: args.folder / path.relative_to(recipe.parent) for path in [recipe, *configs]}
    for path, copied in copies.items():
        if copied.exists() and copied.read_bytes() != path.read_bytes():
            raise ValueError(f"{copied} is there already, and differs; another folder: hftrain copy {args.recipe} DIR")
    for path, copied in copies.items():
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
        print(copied)
    return 0


def run_recipe(args: argparse.Namespace) -> int:
    """Waits for the run, passes signals on to it, and returns its exit code (128 + N if signal N ended it)."""
    recipe, arguments = str(find_recipe(args.recipe)), args.arguments
    split = arguments.index("--") if "--" in arguments else -1
    launcher, own = arguments[: max(split, 0)], arguments[split + 1 :]
    # A session of its own: a terminal would send Ctrl-C to every process of the run, and each should get it once.
    child = subprocess.Popen([sys.executable, "-m", "hftrain.launch", *launcher, recipe, *own], start_new_session=True)

    def pass_on(number: int, frame: FrameType | None) -> None:
        # SIGHUP: the terminal was closed, so save and stop
        child.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, pass_on)
    code = child.wait()
    return code if code >= 0 else 128 - code


# ---- what a run left ----


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
        print("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    return 1 if any(row.problems for row in rows) else 0


def predict_texts(args: argparse.Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from hftrain.predict import predict

    disable_progress_bar()  # of the loading of weights
    if bool(args.texts) == bool(args.file):
        raise ValueError('say what to predict from: hftrain predict OUT "a text", or --file FILE (one of the two)')
    rows = list(read_jsonl(args.file, args.column)) if args.file and args.file.suffix == ".jsonl" else None
    if args.column and rows is None:
        raise ValueError("--column names a key of a .jsonl file given with --file")
    texts = args.texts or read_lines(args.file) if rows is None else [row[args.column] for row in rows]
    predictions = predict(
        args.folder,
        texts,
        batch_size=args.batch_size,
        device=args.device,
        source_prefix=args.source_prefix,
        num_beams=args.num_beams,
        max_new_tokens=args.max_new_tokens,
    )
    if rows is None:
        lines = [" ".join(prediction.splitlines()) for prediction in predictions]  # a line for a line
    else:
        pairs = zip(rows, predictions, strict=True)
        lines = [json.dumps({**row, "prediction": prediction}, ensure_ascii=False) for row, prediction in pairs]
    out = "".join(line + "\n" for line in lines)
    if args.output:
        args.output.write_text(out, encoding="utf-8")
    else:
        sys.stdout.write(out)
    return 0


def read_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}") from error
    return text.removesuffix("\n").split("\n") if text else []


def read_jsonl(path: Path, column: str | None) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object")
        if "prediction" in row:
            raise ValueError(f'{path}, line {number}: has a "prediction" already, which would be overwritten')
        if not isinstance(row.get(column), str):
            raise ValueError(f"{path}, line {number}: no text under {column!r}; --column names one of {', '.join(row)}")
        yield row


if __name__ == "__main__":
    sys.exit(main())
