"""The option of every command that loads a model folder."""

import argparse


def trust_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run the Python code that comes with the model; only for authors you trust",
    )
