"""`hftrain inspect`: shows the examples that a recipe will train on."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from hftrain.cli.commands import Commands, asks_for_help
from hftrain.terminal import visible

if TYPE_CHECKING:
    from hftrain.train.inspect import Example, View

LEARNT, PLAIN = ("\x1b[1;32m", "\x1b[0m"), ("⟦", "⟧")


def add(commands: Commands) -> None:
    command = commands.add_parser(
        "inspect",
        help="show what a recipe will train on; exit code 1 if something is wrong with it",
        usage="hftrain inspect RECIPE [options of inspect] [options of the recipe]",
        epilog="Options of inspect: --samples N (shown, 3), --look N (measured, 1000), and limits: as a "
        "share: --max_truncated 0.05, --max_duplicates 0.1, --max_padding 0.5, --max_nothing_learnt 0, "
        "--min_tokens_learnt 0; as a number of rows: --max_leaked 0 (held-out rows that are in the training rows too), "
        "--max_refused 0. "
        "Learnt tokens are green, or in ⟦ ⟧ without a terminal. Nothing is written, except a sheet of the pictures if "
        "the recipe has some: --sheet FILE (inspect.png).",
    )
    command.add_argument("recipe", metavar="RECIPE", help="a name that `hftrain recipes` lists, or a recipe's path")
    command.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="--samples 5 -- --train_file x")
    command.set_defaults(command=inspect_recipe, show_help=command.print_help)


def inspect_recipe(args: argparse.Namespace) -> int:
    if asks_for_help(args.arguments):
        args.show_help()
        return 0
    from hftrain.cli.recipes import find_recipe, refusal

    split = args.arguments.index("--") if "--" in args.arguments else -1
    options = argparse.ArgumentParser(prog="hftrain inspect RECIPE", allow_abbrev=False)
    options.add_argument("--samples", type=int, default=3)
    options.add_argument("--look", type=int, default=1000)
    options.add_argument("--sheet", default="inspect.png")
    for name, default in Limits()._asdict().items():
        options.add_argument(f"--{name}", type=type(default), default=default)
    if split < 0:
        chosen, recipe_arguments = options.parse_known_args(args.arguments)
    else:
        chosen, recipe_arguments = options.parse_args(args.arguments[:split]), args.arguments[split + 1 :]
    recipe = str(find_recipe(args.recipe))
    if refused := refusal(recipe, recipe_arguments):
        print(refused, end="", file=sys.stderr)
        return 2
    from hftrain.cli.program import run_file
    from hftrain.config.defaults import describe
    from hftrain.report.formats import format_number
    from hftrain.train.inspect import Seen, count_rows, measure, sample, showing_examples

    log = _Messages()
    logging.getLogger("hftrain").addHandler(log)
    arguments = sys.argv
    try:
        with showing_examples():
            run_file(recipe, recipe_arguments)
    except Seen as seen:
        view = seen.view
    except Exception:
        for message in log.messages:  # they may explain the error
            print(visible(message), file=sys.stderr)
        raise
    else:
        raise ValueError(f"{recipe} does not call fit, so there is nothing to show")
    finally:
        sys.argv = arguments
        logging.getLogger("hftrain").removeHandler(log)
    examples = sample(view, chosen.look)
    numbers = measure(view, examples)
    marks = LEARNT if sys.stdout.isatty() else PLAIN
    step = max(1, len(examples) // max(1, chosen.samples))
    for example in examples[::step][: chosen.samples]:
        # otherwise there is one label
        learnt = "" if example.kind in ("whole", "none") else f", {example.learnt:,} learnt"
        length = "an image" if example.pixels is not None else f"{len(example.ids):,} tokens"
        print(f"--- example {example.number:,}: {length}{learnt}")
        print("\n".join(shown(example, view, marks)), end="\n\n")
    if pictures := [example for example in examples if example.pixels is not None]:
        from hftrain.vision.sheet import contact_sheet, draw_marks

        names = getattr(view.model.config, "id2label", None) or {}
        images = [
            draw_marks(view.processor.picture(example.pixels), example.marks or {}, names) for example in pictures
        ]
        contact_sheet(images, [str(example.rest.get("label", "")) for example in pictures]).save(chosen.sheet)
        print(f"what the model sees of {len(pictures)} examples: {chosen.sheet}", end="\n\n")
    if chosen_lines := describe(view.config):
        print(*chosen_lines, sep="\n", end="\n\n")
    if log.messages:
        print("logged while the data was read:", *map(visible, log.messages), sep="\n ", end="\n\n")
    for name, value in numbers.items():
        print(f"{name:<20} {value:.1%}" if name in SHARES else f"{name:<20} {format_number(value)}")
    counts = count_rows(view)
    for name, count in counts.items():
        print(f"{f'rows {name}':<20} {count:,}")
    limits = Limits(**{name: getattr(chosen, name) for name in Limits._fields})
    too_much = breaches(numbers, limits, **counts)
    for breach in too_much:
        print(f"BREACH: {breach}")
    return 1 if too_much else 0


class Limits(NamedTuple):
    """Limits, as shares; a number above its limit is a breach."""

    max_truncated: float = 0.05
    max_duplicates: float = 0.1
    max_padding: float = 0.5
    max_nothing_learnt: float = 0.0
    min_tokens_learnt: float = 0.0
    max_leaked: int = 0  # held-out rows that are in the training rows too
    max_refused: int = 0  # rows left out


def breaches(numbers: dict[str, Any], limits: Limits, *, leaked: int = 0, refused: int = 0) -> list[str]:
    """The breached limits, one sentence each."""
    shares = {"truncated share": "max_truncated", "duplicates": "max_duplicates", "padding share": "max_padding"}
    shares |= {"nothing learnt": "max_nothing_learnt"}
    sentences = [
        f"{name} {numbers[name]:.1%} is over {limit} = {getattr(limits, limit):.1%}"
        for name, limit in shares.items()
        if numbers.get(name, 0) > getattr(limits, limit)
    ]
    if (learnt := numbers.get("tokens learnt", 1)) <= limits.min_tokens_learnt:
        sentences.append(f"tokens learnt {learnt:.1%} is not over min_tokens_learnt = {limits.min_tokens_learnt:.1%}")
    if numbers.get("end learnt") == 0 and numbers.get("tokens learnt", 0) < 1:  # running text need not end
        sentences.append("no example learns its end token: generation would not stop")
    for name, count, most in (("leaked", leaked, limits.max_leaked), ("refused", refused, limits.max_refused)):
        if count > most:
            sentences.append(f"{count:,} rows {name}, max_{name} = {most}")
    return sentences


SHARES = {"padding share", "truncated share", "nothing learnt", "tokens learnt", "end learnt", "duplicates"}


class _Messages(logging.Handler):
    """Collects the log messages on the data."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def shown(example: Example, view: View, marks: tuple[str, str]) -> Iterator[str]:
    """Lines that show an example, with learnt tokens between `marks`."""
    from hftrain.train.inspect import tokenizer_of

    tokenizer = tokenizer_of(view.processor)
    if not hasattr(tokenizer, "decode"):
        tokenizer = None

    def text(ids: Any) -> str:
        return visible(tokenizer.decode(list(ids)) if tokenizer else " ".join(map(str, ids)))

    def learnt(text: Any) -> str:
        return f"{marks[0]}{visible(str(text))}{marks[1]}"

    pairs = list(zip(example.ids, example.labels, strict=False))
    if example.kind == "next":
        groups = groupby(pairs, key=lambda pair: pair[1] >= 0)
        yield "".join(learnt(text(i for i, _ in group)) if on else text(i for i, _ in group) for on, group in groups)
    elif example.kind in ("masked", "tags"):
        names: dict[Any, str] = (view.model.config.id2label or {}) if example.kind == "tags" else {}
        words = (text([i]) + (learnt(names.get(label) or text([label])) if label >= 0 else "") for i, label in pairs)
        yield (" " if names else "").join(words)
    else:
        if example.ids:
            yield text(example.ids)
        if example.kind == "target":
            yield learnt(text(example.labels))
    for name, value in example.rest.items():
        yield f"{name}: {learnt(value) if name == 'label' else visible(str(value))}"
