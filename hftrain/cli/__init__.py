"""`hftrain`: each file here adds one or a few commands to the parser. A command imports heavy modules only when it
runs."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from hftrain import __version__
from hftrain.cli import chat, compare, inspect, merge, plan, predict, prepare, recipes, serve, slurm, verify
from hftrain.terminal import clean_messages, visible, write_no_more

COMMANDS = (
    recipes,
    prepare,
    inspect,
    plan,
    verify,
    compare,
    predict,
    chat,
    merge,
    serve,
    slurm,
)  # in the order of the help


def main(arguments: Sequence[str] | None = None) -> int:
    """The console command. Returns the exit code: 2 for a mistake of the user, explained in a line on stderr."""
    clean_messages()
    parser = make_parser()
    args = parser.parse_args(arguments)
    if not hasattr(args, "command"):
        parser.print_help(sys.stderr)
        return 2
    try:
        code = args.command(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # for example `| head` has ended
        write_no_more(sys.stdout)
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get("HFTRAIN_TRACEBACK"):
            raise
        print(visible(f"hftrain: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hftrain: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hftrain",
        description="Fine-tune and pretrain Transformers with recipes of one file each.",
        epilog="hftrain COMMAND --help shows its options. With HFTRAIN_TRACEBACK=1 errors come with a traceback.",
    )
    parser.add_argument("--version", action="version", version=f"hftrain {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return parser
