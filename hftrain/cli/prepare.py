"""`hftrain prepare`: text into token files, once, before training."""

from __future__ import annotations

import argparse
from pathlib import Path

from hftrain.cli.commands import Commands, add_format_options
from hftrain.cli.trust import trust_option
from hftrain.terminal import Visible, visible


def add(commands: Commands) -> None:
    command = commands.add_parser(
        "prepare",
        help="tokenize text for pretraining, on all cores",
        description="Tokenizes rows into memory-mapped files that pretraining reads. After an interruption, the same "
        "command continues; finished files are reused.",
        epilog="hftrain prepare --source wiki=wiki.jsonl --source 'code=code/*.parquet' --tokenizer gpt2 "
        "--output_dir tokens",
    )
    command.add_argument(
        "--source", metavar="NAME=SOURCE", action="append", required=True,
        help="a file (jsonl, json, csv, tsv, txt, parquet, arrow; .gz, .zst), many of them ('x/*.jsonl'), a folder, or "
        "a data set on the Hub, which is streamed (user/name:split, user/name:config:split); repeat it for each source",
    )  # fmt: skip
    command.add_argument("--tokenizer", metavar="NAME", required=True, help="a folder, or a name on the Hub")
    command.add_argument("--output_dir", metavar="DIR", type=Path, help="default: a folder in the cache of datasets")
    command.add_argument("--text_column", metavar="NAME", default="text", help="column of the text (default: text)")
    command.add_argument(
        "--document", choices=("line", "paragraph", "file"), default="line",
        help="unit of a document in a text file; blank lines separate paragraphs (default: line)",
    )  # fmt: skip
    add_format_options(command)
    command.add_argument(
        "--validation_split",
        metavar="X",
        type=float,
        default=0.0,
        help="share of documents held out for validation (default: 0)",
    )
    command.add_argument(
        "--seed", metavar="N", type=int, default=42, help="chooses the validation documents (default: 42)"
    )
    command.add_argument("--max_tokens", metavar="N", type=int, help="maximum tokens of each source")
    command.add_argument(
        "--max_bad_rows", metavar="N", type=int, default=0, help="unusable rows that may be left out (default: 0)"
    )
    command.add_argument("--num_workers", metavar="N", type=int, help="processes (default: one per core)")
    trust_option(command)
    command.set_defaults(command=prepare_tokens)


def prepare_tokens(args: argparse.Namespace) -> int:
    import logging

    from hftrain.config import DataConfig
    from hftrain.data.sources import find_files, is_hub_name
    from hftrain.data.splits import dialect_of

    handler = logging.StreamHandler()
    handler.setFormatter(Visible())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("hftrain").setLevel(logging.INFO)
    named = {name: getattr(args, name) for name in ("delimiter", "encoding", "column_names")}
    dialect = dialect_of(DataConfig(train_file=args.source[0], **named))
    sources = {}
    for source in args.source:
        name, equals, place = source.partition("=")
        if not equals or name in sources:
            raise ValueError(f"--source {source}: give each source its own name, as in --source wiki=wiki.jsonl")
        sources[name] = place
        whole, first = Path(place).expanduser(), Path(place.partition(":")[0]).expanduser()
        if whole.exists() or not (first.is_dir() or is_hub_name(str(first))):
            find_files(str(whole))  # before torch is imported
    from transformers import AutoTokenizer

    from hftrain.data.tokens import TokenFiles
    from hftrain.models.trust import refusing_code
    from hftrain.tasks.pretraining.prepare import prepare

    with refusing_code(args.tokenizer):
        try:
            tokenizer = AutoTokenizer.from_pretrained(args.tokenizer, trust_remote_code=args.trust_remote_code)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--tokenizer {args.tokenizer}: neither a folder with a tokenizer nor found on the Hub: {error}"
            ) from error
    settings = ("text_column", "document", "validation_split", "seed", "max_tokens", "max_bad_rows", "num_workers")
    folder = prepare(
        sources,
        tokenizer,
        args.output_dir,
        dialect=dialect,
        **{name: getattr(args, name) for name in settings},
    )
    shards = TokenFiles(folder).manifest["shards"]
    for split in sorted({shard["split"] for shard in shards}):
        for name in sources:
            mine = [shard for shard in shards if (shard["split"], shard["source"]) == (split, name)]
            documents, tokens = (sum(shard[count] for shard in mine) for count in ("documents", "tokens"))
            print(visible(f"{split}  {name}: {documents:,} documents, {tokens:,} tokens"))
    print(folder)
    return 0
