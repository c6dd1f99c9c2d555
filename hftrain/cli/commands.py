"""What several subcommands share: the type they are added to, which has no public name, and options."""

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def asks_for_help(arguments: list[str]) -> bool:
    """Whether --help stands behind RECIPE, where argparse leaves it to the command, and not behind "--"."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return bool({"-h", "--help"}.intersection(own))


def add_format_options(command: argparse.ArgumentParser) -> None:
    """How text files are read, as the settings of these names say."""
    command.add_argument("--delimiter", metavar="C", help="separator of csv and tsv fields (default: comma, TAB)")
    columns = "columns of csv and tsv files without a header line"
    command.add_argument("--column_names", metavar="NAME", nargs="+", default=[], help=columns)
    command.add_argument(
        "--encoding", metavar="NAME", help="encoding of text files, for instance windows-1252 (default: UTF-8)"
    )
