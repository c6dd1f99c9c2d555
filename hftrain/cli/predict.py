"""`hftrain predict`: a trained model's predictions for new texts."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hftrain.cli.trust import trust_option


def add(commands: Any) -> None:
    command = commands.add_parser("predict", help="predict with a trained model")
    command.add_argument("folder", metavar="OUT", type=Path, help="the output folder of a run: a model or an adapter")
    command.add_argument("texts", metavar="TEXT", nargs="*", help="what to predict from")
    command.add_argument("--file", type=Path, help="read a text a line, or JSON lines if it ends in .jsonl")
    command.add_argument("--column", metavar="NAME", help="the key of the text in a .jsonl file")
    command.add_argument("--pair_column", metavar="NAME", help="the key of the second text, where pairs are told apart")
    command.add_argument("--output", type=Path, help="write here and not to the screen; JSON lines if --file has them")
    command.add_argument(
        "--source_prefix", metavar="TEXT", default="", help="put before each text, as in training (T5)"
    )
    command.add_argument("--num_beams", type=int, metavar="N", help="default: what the model was saved with")
    command.add_argument("--max_new_tokens", type=int, metavar="N", help="default: what the model was saved with")
    command.add_argument("--batch_size", type=int, metavar="N", default=32, help="texts at a time (default: 32)")
    command.add_argument("--device", help='"cpu", "cuda:1", ... (default: the accelerator if there is one)')
    trust_option(command)
    command.set_defaults(command=predict_texts)


def predict_texts(args: argparse.Namespace) -> int:
    from transformers.utils.logging import set_verbosity_error

    from hftrain.data.rows import COLUMNAR, TEXTUAL
    from hftrain.hush import hush_libraries
    from hftrain.predict import line, predict

    hush_libraries()
    set_verbosity_error()  # it would report the head that an adapter brings along as missing in its base model
    if bool(args.texts) == bool(args.file):
        raise ValueError('say what to predict from: hftrain predict OUT "a text", or --file FILE (one of the two)')
    rows, pairs = None, None
    if args.file and args.file.suffix == ".jsonl":
        named = {"--column": args.column} | ({"--pair_column": args.pair_column} if args.pair_column else {})
        rows = list(read_jsonl(args.file, named))
        pairs = [row[args.pair_column] for row in rows] if args.pair_column else None
    elif args.column or args.pair_column:
        raise ValueError("--column and --pair_column name keys of a .jsonl file given with --file")
    elif args.file and args.file.suffix in {*TEXTUAL, *COLUMNAR, ".gz"}:
        raise ValueError(f"{args.file}: --file is a .jsonl file, whose rows have columns, or a text a line")
    texts = args.texts or read_lines(args.file) if rows is None else [row[args.column] for row in rows]
    predictions = predict(
        args.folder,
        texts,
        pairs=pairs,
        batch_size=args.batch_size,
        device=args.device,
        source_prefix=args.source_prefix,
        num_beams=args.num_beams,
        max_new_tokens=args.max_new_tokens,
        trust_remote_code=args.trust_remote_code,
    )
    if rows is None:
        lines = [line(prediction) for prediction in predictions]
    else:
        both = zip(rows, predictions, strict=True)
        lines = [json.dumps({**row, "prediction": prediction}, ensure_ascii=False) for row, prediction in both]
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


def read_jsonl(path: Path, columns: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object")
        if "prediction" in row:
            raise ValueError(f'{path}, line {number}: has a "prediction" already, which would be overwritten')
        for option, column in columns.items():
            value = row.get(column)
            words = isinstance(value, list) and all(isinstance(word, str) and word for word in value)
            if not isinstance(value, str) and not words:
                said = f"{option} names " if column is None else f"no text under {column!r}; {option} names "
                said += f"one of {', '.join(row)}"
                raise ValueError(f"{path}, line {number}: {said}")
        yield row
