"""`hftrain check-serve`: compares the tokens and answers of a server with the exported model."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from hftrain.cli.commands import Commands
from hftrain.cli.trust import trust_option
from hftrain.terminal import visible


def add(commands: Commands) -> None:
    command = commands.add_parser(
        "check-serve",
        help="compare a running OpenAI-compatible server with an export; exit code 1 if they differ",
        epilog="Tested with `transformers serve EXPORT`; vLLM, SGLang and llama.cpp also return their tokens.",
    )
    command.add_argument("url", metavar="URL", help="address of the server: http://localhost:8000")
    command.add_argument("folder", metavar="EXPORT", type=Path, help="a folder that `hftrain export` wrote")
    command.add_argument("--model", metavar="NAME", help="the server's name of the model (default: the one it lists)")
    command.add_argument(
        "--near", type=float, metavar="MARGIN", default=0.05,
        help="answers may differ from a token on whose logit leads by less, by rounding (default: 0.05)",
    )  # fmt: skip
    command.add_argument("--timeout", type=float, metavar="SECONDS", default=600, help="for each answer (default: 600)")
    trust_option(command)
    command.set_defaults(command=check_serve)


def check_serve(args: argparse.Namespace) -> int:
    from hftrain.deploy.serving import check_server, read_vectors

    vectors = read_vectors(args.folder)
    from transformers import AutoTokenizer  # after what needs no torch

    from hftrain.models.trust import refusing_code
    from hftrain.models.weights import naming_damage

    with refusing_code(args.folder), naming_damage(args.folder):
        tokenizer = AutoTokenizer.from_pretrained(args.folder, trust_remote_code=args.trust_remote_code)
    verdicts = check_server(args.url, vectors, tokenizer, model=args.model, near=args.near, timeout=args.timeout)
    for number, verdict in enumerate(verdicts, 1):
        for message in [f"NOT THE SAME: {problem}" for problem in verdict.problems] + verdict.notes:
            print(visible(f"vector {number}: {message}"))
    wrong = sum(bool(verdict.problems) for verdict in verdicts)
    compared = ", ".join(f"{count} by {what}" for what, count in Counter(v.compared for v in verdicts).items())
    print(f"{len(verdicts) - wrong} of {len(verdicts)} answers equal the export's; prompts compared: {compared}")
    return 1 if wrong else 0
