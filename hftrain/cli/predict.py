"""`hftrain predict`: a trained model's predictions for new texts."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hftrain.data.lines import Dialect

from hftrain.cli.trust import trust_option


def add(commands: Any) -> None:
    command = commands.add_parser("predict", help="predict with a trained model")
    command.add_argument("folder", metavar="OUT", type=Path, help="the output folder of a run: a model or an adapter")
    command.add_argument("texts", metavar="TEXT", nargs="*", help="what to predict from")
    command.add_argument("--file", type=Path, help="read a .txt, a text a line, or rows: jsonl, csv, parquet, ...")
    command.add_argument("--column", metavar="NAME", help="the column of the text, where --file has rows")
    command.add_argument("--pair_column", metavar="NAME", help="the column of the second text of a pair")
    command.add_argument("--output", type=Path, help="write here: JSON lines where --file has rows, else a line a text")
    command.add_argument("--delimiter", metavar="C", help="between the fields of csv and tsv (default: comma, TAB)")
    command.add_argument("--encoding", metavar="NAME", help="of text files, windows-1252 for instance (default: UTF-8)")
    command.add_argument(
        "--source_prefix", metavar="TEXT", help="put before each text (default: what the model was trained with)"
    )
    command.add_argument("--num_beams", type=int, metavar="N", help="default: what the model was saved with")
    command.add_argument("--max_new_tokens", type=int, metavar="N", help="default: what the model was saved with")
    command.add_argument("--batch_size", type=int, metavar="N", default=32, help="texts at a time (default: 32)")
    add_base(command)
    command.add_argument("--device", help='"cpu", "cuda:1", ... (default: the accelerator if there is one)')
    trust_option(command)
    command.set_defaults(command=predict_texts)


def add_base(command: argparse.ArgumentParser) -> None:
    command.add_argument("--base", metavar="PATH", help="an adapter's base model, where it has moved")


def predict_texts(args: argparse.Namespace) -> int:
    from transformers.utils.logging import set_verbosity_error

    from hftrain.config import DataConfig
    from hftrain.data.sources import COLUMNAR, JSON, PLAIN, TEXTUAL, check_ending, ending, existing
    from hftrain.hush import hush_libraries
    from hftrain.predict import line, predict
    from hftrain.splits import dialect_of

    hush_libraries()
    set_verbosity_error()  # it would report the head that an adapter brings along as missing in its base model
    if bool(args.texts) == bool(args.file):
        raise ValueError('say what to predict from: hftrain predict OUT "a text", or --file FILE (one of the two)')
    texts, pairs, rows = args.texts, None, None
    named = {"--column": args.column} | ({"--pair_column": args.pair_column} if args.pair_column else {})
    dialect = dialect_of(DataConfig(train_file=str(args.file), delimiter=args.delimiter, encoding=args.encoding))
    if args.file and check_ending(existing(args.file)) not in PLAIN:
        if args.output and ending(args.output) in (*COLUMNAR, *set(TEXTUAL).difference(JSON)):
            raise ValueError(f"--output {args.output}: rows are written as JSON lines, so call it .jsonl")
        rows = list(read_rows(args.file, named, dialect))
        texts = [row[args.column] for row in rows]
        pairs = [row[args.pair_column] for row in rows] if args.pair_column else None
    elif args.column or args.pair_column:
        raise ValueError(
            "--column and --pair_column name columns of a file with rows (jsonl, csv, ...), given as --file"
        )
    elif args.file:
        texts = read_texts(args.file, dialect)
    predictions = predict(
        args.folder,
        texts,
        pairs=pairs,
        batch_size=args.batch_size,
        device=args.device,
        source_prefix=args.source_prefix,
        num_beams=args.num_beams,
        max_new_tokens=args.max_new_tokens,
        base=args.base,
        trust_remote_code=args.trust_remote_code,
    )
    if rows is None:
        lines = [line(prediction) for prediction in predictions]
    else:
        both = zip(rows, predictions, strict=True)
        lines = [
            json.dumps({**row, "prediction": prediction}, ensure_ascii=False, default=str) for row, prediction in both
        ]
    out = "".join(line + "\n" for line in lines)
    if args.output:
        args.output.write_text(out, encoding="utf-8")
    else:
        sys.stdout.write(out)
    return 0


def read_texts(path: Path, dialect: Dialect) -> list[str]:
    """The lines of a text file, empty ones too."""
    from hftrain.data.lines import Fault, decode, raw_lines
    from hftrain.data.readers import check_text

    check_text(path, dialect.encoding)
    texts = []
    for number, raw in raw_lines(path, dialect.encoding):
        try:
            texts.append(decode(raw).rstrip("\r\n"))
        except Fault as fault:
            raise ValueError(f"{path}, line {number}: {fault}. {fault.advice}") from None
    return texts


def read_rows(path: Path, columns: dict[str, str | None], dialect: Dialect) -> Iterator[dict[str, Any]]:
    """The rows of a file as training reads it; `columns` are those that have texts, by option.

    Raises:
        ValueError: a row that cannot be used, or that has a prediction already.
    """
    from hftrain.data.lines import Fault
    from hftrain.data.sources import open_file

    opened = open_file(path, {"row": ""}, dialect)
    for number, values in opened.items:
        place = f"{path}, {opened.unit} {number}"
        if isinstance(values, Fault):
            way_out = f". {values.advice}" if values.advice != Fault.advice else ""
            raise ValueError(f"{place}: {values}{way_out}")
        row = values[0]
        if "prediction" in row:
            raise ValueError(f'{place}: has a "prediction" already, which would be overwritten')
        for option, column in columns.items():
            value = row.get(column)
            words = isinstance(value, list) and all(isinstance(word, str) and word for word in value)
            if not isinstance(value, str) and not words:
                text = f"{option} names " if column is None else f"no text under {column!r}; {option} names "
                raise ValueError(f"{place}: {text}one of {', '.join(row)}")
        yield row
