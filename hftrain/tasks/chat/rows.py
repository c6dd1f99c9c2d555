"""Rows of chats in the formats that people have, as messages: {"role", "content"} and what else a message has."""

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
UNREAD_ADVICE = (
    "If there is something to learn in one, give it the name of a column that is read: docs/chat.md has them"
)

# The columns of each format, and what else a column may be called. A row is of the first format whose columns it has.
FORMATS: dict[str, tuple[tuple[str, ...], ...]] = {
    "messages": (("messages",),),
    "conversations": (("conversations", "conversation"),),
    "prompt_completion": (("prompt", "question", "query"), ("completion", "response", "answer")),
    "instruction": (("instruction",), ("output", "response")),
    "text": (("text",),),
}
# What is read beside them.
BESIDE: dict[str, tuple[str, ...]] = {
    "messages": ("system", "tools"),
    "conversations": ("system", "tools"),
    "prompt_completion": ("system", "tools", "history"),
    "instruction": ("system", "tools", "history", "input", "context"),
    "text": (),
}


class Chat(NamedTuple):
    """A conversation, cut in front of the first turn that is to be learnt."""

    prompt: Any  # messages; or a string, a plain text, which is learnt whole
    completion: list[Message]  # of which the assistant's turns are learnt, but those with "weight": 0
    tools: list[Any]  # JSON schemas of the functions that may be called


def load_chats(config: ChatRecipeConfig, seed: int) -> dict[str, Rows]:
    """Rows {"prompt", "completion", "tools"} of each split, JSON of what `Chat` has; those of the same prompt land on
    the same side of a cut. `config` is a `DataConfig` and a `ChatConfig`. The log names the formats met, and the
    columns that nothing reads."""
    met, unread = set(), Unread()

    def convert(record: dict[str, Any]) -> Chat:
        known, columns = format_of(record, config.dataset_format)
        if known not in met:
            met.add(known)
            logger.warning("rows with the columns %s are read as %s", ", ".join(columns), known)
        unread.count(record, [*columns, *BESIDE[known]])
        chat = to_chat(record, known)
        if not config.system_to_user or isinstance(chat.prompt, str):
            return chat
        return Chat(fold_system(chat.prompt), fold_system(chat.completion), chat.tools)

    schema = pa.schema([(name, pa.string()) for name in Chat._fields])
    compare = ["prompt", "completion"]
    rows = load_splits(config, columns={"record": ""}, seed=seed, compare=compare, read=as_json(convert), schema=schema)
    unread.warn(UNREAD_ADVICE)
    return rows


def as_json(convert: Callable[[Any], Iterable[Any]]) -> Callable[[list[Any], list[str]], list[str]]:
    """For `load_rows`: what `convert` makes of the whole record, each value as JSON."""
    return lambda values, names: [json.dumps(value, ensure_ascii=False, default=str) for value in convert(values[0])]


def to_chat(record: Mapping[str, Any], dataset_format: str | None = None) -> Chat:
    """The conversation in a row of the format named, or of the first of `FORMATS` whose columns it has.

    Raises:
        Fault: it has the columns of none, or something else is wrong, and what.
    """
    known, names = format_of(record, dataset_format)
    first, tools = names[0], read_tools(record.get("tools"))
    if known == "text":
        return Chat(text(record["text"], "text"), [], [])
    if len(names) == 1:
        if isinstance(record[first], str) and listed_in(record[first], first) is None:
            raise Fault(f"{first} is text, where a list of messages is needed: {record[first]!r:.60}")
        return Chat(*cut_in_front_of_answer(with_system(record, read_messages(record[first], "user", first))), tools)
    past = history(record)
    if known == "instruction":
        asked = [message("user", instruction(record), first)]
        answered = [message("assistant", record[names[1]], names[1])]
    else:
        asked = read_messages(record[first], "user", first)
        answered = read_messages(record[names[1]], "assistant", names[1])
    if past and len(asked) > 1:
        raise Fault(f"history goes with one question, but {first} is a list of {len(asked)} messages: write one list")
    prompt, completion = with_system(record, asked), answered
    if past:  # its answers are learnt too
        prompt, completion = cut_in_front_of_answer(with_system(record, past + asked) + answered)
    check_learnt(completion)
    return Chat(prompt, completion, tools)


def cut_in_front_of_answer(turns: list[Message]) -> tuple[list[Message], list[Message]]:
    """The messages in front of the first answer that is to be learnt, and the others. A greeting, which nothing stands
    in front of, is no answer.

    Raises:
        Fault: no answer is to be learnt.
    """
    check_learnt(turns)
    answers = (number for number, turn in enumerate(turns) if number and is_learnt(turn))
    start = next(answers, None)
    if start is None:
        raise Fault("nothing to learn: the assistant says something once, with nothing in front that it answers")
    return turns[:start], turns[start:]


def is_learnt(turn: Message) -> bool:
    return turn["role"] == "assistant" and turn.get("weight") != 0


def check_learnt(turns: list[Message]) -> None:
    """Raises `Fault` where none of the turns is to be learnt."""
    if not any(turn["role"] == "assistant" for turn in turns):
        raise Fault("nothing to learn: the assistant says nothing")
    if not any(map(is_learnt, turns)):
        raise Fault("nothing to learn: all that the assistant says has the weight 0")


def with_system(record: Mapping[str, Any], turns: list[Message]) -> list[Message]:
    """With the message of the column `system` in front, unless they begin with the same."""
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
        raise Fault("input and context both say something: one of them is read, so write one")
    return "\n\n".join(text(record[name], name) for name in ("instruction", *more))


def history(record: Mapping[str, Any]) -> list[Message]:
    """Earlier turns of an instruction (LLaMA-Factory, ms-swift): pairs of a question and an answer, or messages."""
    pairs = parsed(record.get("history")) or []
    if pairs and isinstance(pairs, list) and isinstance(pairs[0], dict):
        return read_messages(pairs, "user", "history")
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise Fault(f"history is not a list of pairs, question and answer: {pairs!r:.60}")
    roles = ("user", "assistant")
    return [
        message(role, said, f"history[{number}]")
        for number, pair in enumerate(pairs)
        for role, said in zip(roles, pair, strict=True)
    ]


def format_of(record: Mapping[str, Any], dataset_format: str | None = None) -> tuple[str, list[str]]:
    """The format of a row, and what the columns of the format are called in it.

    Raises:
        Fault: it has the columns of none.
    """
    for known, columns in FORMATS.items():
        names = [next((name for name in choice if record.get(name) is not None), "") for choice in columns]
        if dataset_format in (None, known) and all(names):
            return known, names
    wanted = {dataset_format: FORMATS[dataset_format]} if dataset_format else FORMATS
    said = "; ".join(f"{name}: {' and '.join(map(' or '.join, columns))}" for name, columns in wanted.items())
    raise Fault(f"no chat in the columns {', '.join(map(repr, record))}; a format and its columns: {said}")
