"""Rows of chats of all usual formats, as messages: {"role", "content"} and further keys of a message."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from hftrain.data.readers import Fault, text
from hftrain.data.splits import load_splits
from hftrain.data.unread import Unread
from hftrain.tasks.chat.messages import Message, fold_system, listed_in, message, parsed, read_messages, read_tools

if TYPE_CHECKING:
    from hftrain.data.rows import Rows
    from hftrain.tasks.chat.config import ChatRecipeConfig

logger = logging.getLogger(__name__)
UNREAD_ADVICE = "To learn from one of them, rename it to a column that is read: docs/chat.md lists these"

# The columns of each format with their other names. The format of a row is the first whose columns it has.
FORMATS: dict[str, tuple[tuple[str, ...], ...]] = {
    "messages": (("messages",),),
    "conversations": (("conversations", "conversation"),),
    "prompt_completion": (("prompt", "question", "query"), ("completion", "response", "answer")),
    "instruction": (("instruction",), ("output", "response")),
    "text": (("text",),),
}
# Further columns that are read.
BESIDE: dict[str, tuple[str, ...]] = {
    "messages": ("system", "tools"),
    "conversations": ("system", "tools"),
    "prompt_completion": ("system", "tools", "history"),
    "instruction": ("system", "tools", "history", "input", "context"),
    "text": (),
}


class Chat(NamedTuple):
    """A conversation, split before the first turn that is learnt."""

    prompt: Any  # messages; or a string: a plain text, all of which is learnt
    completion: list[Message]  # the assistant's turns are learnt, but not with "weight": 0
    tools: list[Any]  # JSON schemas of the functions that may be called


def load_chats(config: ChatRecipeConfig, seed: int) -> dict[str, Rows]:
    """Rows {"prompt", "completion", "tools"} of each split, the fields of `Chat` as JSON. Rows of one prompt stay
    in one split. `config` is a `DataConfig` and a `ChatConfig`. The log names the formats of the rows and the
    columns that are not read."""
    met, unread = set(), Unread()

    def convert(record: dict[str, Any]) -> Chat:
        format_name, columns = format_of(record, config.dataset_format)
        if format_name not in met:
            met.add(format_name)
            logger.warning("rows with the columns %s are read as %s", ", ".join(columns), format_name)
        unread.count(record, [*columns, *BESIDE[format_name]])
        chat = to_chat(record, format_name)
        if not config.system_to_user or isinstance(chat.prompt, str):
            return chat
        return Chat(fold_system(chat.prompt), fold_system(chat.completion), chat.tools)

    schema = pa.schema([(name, pa.string()) for name in Chat._fields])
    compare = ["prompt", "completion"]
    rows = load_splits(config, columns={"record": ""}, seed=seed, compare=compare, read=as_json(convert), schema=schema)
    unread.warn(UNREAD_ADVICE)
    return rows


def as_json(convert: Callable[[Any], Iterable[Any]]) -> Callable[[list[Any], list[str]], list[str]]:
    """A function for `load_rows`: the values that `convert` makes of a record, each as JSON."""
    return lambda values, names: [json.dumps(value, ensure_ascii=False, default=str) for value in convert(values[0])]


def to_chat(record: Mapping[str, Any], dataset_format: str | None = None) -> Chat:
    """The conversation in a row of the given format, or of the first of `FORMATS` whose columns it has.

    Raises:
        Fault: it has the columns of no format, or it is malformed; the message says how.
    """
    format_name, names = format_of(record, dataset_format)
    first, tools = names[0], read_tools(record.get("tools"))
    if format_name == "text":
        return Chat(text(record["text"], "text"), [], [])
    if len(names) == 1:
        if isinstance(record[first], str) and listed_in(record[first], first) is None:
            raise Fault(f"{first} is text, but must be a list of messages: {record[first]!r:.60}")
        return Chat(*cut_in_front_of_answer(with_system(record, read_messages(record[first], "user", first))), tools)
    past = history(record)
    if format_name == "instruction":
        question = [message("user", instruction(record), first)]
        answered = [message("assistant", record[names[1]], names[1])]
    else:
        question = read_messages(record[first], "user", first)
        answered = read_messages(record[names[1]], "assistant", names[1])
    if past and len(question) > 1:
        raise Fault(
            f"history needs one question, but {first} is a list of {len(question)} messages: put all into one list"
        )
    prompt, completion = with_system(record, question), answered
    if past:  # its answers are learnt too
        prompt, completion = cut_in_front_of_answer(with_system(record, past + question) + answered)
    check_learnt(completion)
    return Chat(prompt, completion, tools)


def cut_in_front_of_answer(turns: list[Message]) -> tuple[list[Message], list[Message]]:
    """The messages before the first answer that is learnt, and the others. A greeting at the very beginning is not an
    answer.

    Raises:
        Fault: no answer is learnt.
    """
    check_learnt(turns)
    answers = (number for number, turn in enumerate(turns) if number and is_learnt(turn))
    start = next(answers, None)
    if start is None:
        raise Fault("nothing to learn: the only message of the assistant comes first and answers nothing")
    return turns[:start], turns[start:]


def is_learnt(turn: Message) -> bool:
    return turn["role"] == "assistant" and turn.get("weight") != 0


def check_learnt(turns: list[Message]) -> None:
    """Raises `Fault` if no turn is learnt."""
    if not any(turn["role"] == "assistant" for turn in turns):
        raise Fault("nothing to learn: there is no message of the assistant")
    if not any(map(is_learnt, turns)):
        raise Fault("nothing to learn: all messages of the assistant have weight 0")


def with_system(record: Mapping[str, Any], turns: list[Message]) -> list[Message]:
    """The turns after the message of the column `system`, unless they begin with the same message."""
    if not record.get("system"):
        return turns
    system = message("system", record["system"], "system")
    return turns if turns[:1] == [system] else [system, *turns]


def instruction(record: Mapping[str, Any]) -> str:
    """The question of an instruction and its input.

    Raises:
        Fault: there are two inputs.
    """
    more = [name for name in ("input", "context") if record.get(name)]
    if len(more) == 2:
        raise Fault("input and context both have text: only one of them is read, so use one")
    return "\n\n".join(text(record[name], name) for name in ("instruction", *more))


def history(record: Mapping[str, Any]) -> list[Message]:
    """Earlier turns of an instruction (LLaMA-Factory, ms-swift): pairs of a question and an answer, or messages."""
    pairs = parsed(record.get("history")) or []
    if pairs and isinstance(pairs, list) and isinstance(pairs[0], dict):
        return read_messages(pairs, "user", "history")
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise Fault(f"history is not a list of pairs of question and answer: {pairs!r:.60}")
    roles = ("user", "assistant")
    return [
        message(role, content, f"history[{number}]")
        for number, pair in enumerate(pairs)
        for role, content in zip(roles, pair, strict=True)
    ]


def format_of(record: Mapping[str, Any], dataset_format: str | None = None) -> tuple[str, list[str]]:
    """The format of a row, and its names of the format's columns.

    Raises:
        Fault: it has the columns of no format.
    """
    for format_name, columns in FORMATS.items():
        names = [next((name for name in choice if record.get(name) is not None), "") for choice in columns]
        if dataset_format in (None, format_name) and all(names):
            return format_name, names
    wanted = {dataset_format: FORMATS[dataset_format]} if dataset_format else FORMATS
    formats = "; ".join(f"{name}: {' and '.join(map(' or '.join, columns))}" for name, columns in wanted.items())
    raise Fault(f"the columns {', '.join(map(repr, record))} fit no chat format; formats and their columns: {formats}")
