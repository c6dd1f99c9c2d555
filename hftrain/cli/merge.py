"""`hftrain merge` and `hftrain export`: write a trained model in another form and compare it with the original."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hftrain.cli.commands import Commands
from hftrain.cli.predict import add_base
from hftrain.cli.trust import trust_option
from hftrain.terminal import hush_libraries, visible

SHARED = ("max_shard_size", "max_kl", "load_in_4bit", "device", "base", "trust_remote_code")  # options of both

COMPARING = ("prompts", "max_kl", "load_in_4bit", "device", "base", "trust_remote_code")  # not for sharded checkpoints


def add(commands: Commands) -> None:
    command = commands.add_parser(
        "merge",
        help="write a model with its adapter merged into the weights; exit code 1 if it is not the same model",
        epilog="The written model is read back, and its logits are compared with those of the base with the adapter. "
        "A sharded checkpoint (checkpoint-N of a run under ZeRO or FSDP2) has its weights put together instead.",
    )
    _shared(command, "the base's", "merged")
    command.set_defaults(command=merge_adapter)

    command = commands.add_parser(
        "export",
        help="write a model for servers: merged, in half precision, with test vectors",
        epilog="`hftrain check-serve URL OUT-export` compares a running server with the test vectors.",
    )
    _shared(command, "bfloat16", "export")
    command.add_argument(
        "--gguf",
        metavar="LLAMA_CPP",
        type=Path,
        help="also write model.gguf, with the converter in this checkout of llama.cpp",
    )
    command.add_argument(
        "--max_new_tokens", type=int, metavar="N", default=32, help="tokens of each test vector's answer (default: 32)"
    )
    command.set_defaults(command=export_model)


def _shared(command: argparse.ArgumentParser, dtype: str, name: str) -> None:
    command.add_argument(
        "folder",
        metavar="OUT",
        type=Path,
        help="the output folder of a run: a model or an adapter; for merge also a sharded checkpoint",
    )
    command.add_argument("--output", metavar="DIR", type=Path, help=f"write here (default: OUT-{name})")
    command.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help=f"format of the weights (default: {dtype})"
    )
    command.add_argument(
        "--max_shard_size", metavar="SIZE", default="5GB", help="maximum size of a file of weights (default: 5GB)"
    )
    command.add_argument("--prompts", metavar="FILE", type=Path, help="compare on these texts, one per line")
    command.add_argument("--max_kl", type=float, metavar="NATS", help="allowed mean KL divergence, for rounding")
    command.add_argument("--load_in_4bit", action="store_true", default=None, help="the adapter was trained on 4 bits")
    add_base(command)
    command.add_argument("--device", help='"cpu", "cuda:1", ... (default: the accelerator if there is one)')
    trust_option(command)
    command.set_defaults(suffix=name)


def merge_adapter(args: argparse.Namespace) -> int:
    check_files(args)
    from hftrain.deploy.merge import merge
    from hftrain.deploy.unsharding import is_sharded, unshard

    if is_sharded(args.folder):
        if useless := [name for name in COMPARING if getattr(args, name)]:
            raise ValueError(
                f"{args.folder} is a sharded checkpoint, whose weights are only put together: leave out "
                f"{', '.join(f'--{name}' for name in useless)}"
            )
        output = args.output or args.folder.with_name(f"{args.folder.resolve().name}-unsharded")
        print(f"{output}: {unshard(args.folder, output, dtype=args.dtype, max_shard_size=args.max_shard_size)}")
        return 0
    return _write(args, merge, {"dtype": args.dtype})


def export_model(args: argparse.Namespace) -> int:
    check_files(args)
    from hftrain.deploy.export import export
    from hftrain.deploy.unsharding import is_sharded

    if is_sharded(args.folder):
        raise ValueError(
            f"{args.folder} is a sharded checkpoint: `hftrain merge {args.folder}` writes its weights, export those"
        )
    more = {"dtype": args.dtype or "bfloat16", "llama_cpp": args.gguf, "max_new_tokens": args.max_new_tokens}
    return _write(args, export, more)


def check_files(args: argparse.Namespace) -> None:
    """Raises: ValueError, a file or folder is missing. Needs no torch."""
    from hftrain.data.files import require_model
    from hftrain.data.sources import existing

    require_model(args.folder)
    if args.prompts:
        existing(args.prompts)


def _write(args: argparse.Namespace, function: Any, more: dict[str, Any]) -> int:
    from hftrain.data.lines import USUAL
    from hftrain.deploy.merge import NotTheSame
    from hftrain.predict.reading import read_texts

    hush_libraries()
    if args.prompts:
        more["prompts"] = read_texts(args.prompts, USUAL)
    output = args.output or args.folder.with_name(f"{args.folder.resolve().name}-{args.suffix}")
    try:
        parity = function(args.folder, output, **{name: getattr(args, name) for name in SHARED}, **more)
    except NotTheSame as error:
        print(visible(f"hftrain: {error}"), file=sys.stderr)
        return 1
    print(f"{output}: {parity}")
    return 0
