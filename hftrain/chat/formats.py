"""Rows of chats in the formats that people have, as messages: {"role", "content"} and what else a message has."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from hftrain.data.readers import Fault, text
from hftrain.splits import load_splits

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

Message = dict[str, Any]
# The columns of each format, and what else a column may be called. A row is of the first format whose columns it has.
FORMATS: dict[str, tuple[tuple[str, ...], ...]] = {
    "messages": (("messages",),),
    "conversations": (("conversations", "conversation"),),
    "prompt_completion": (("prompt", "question"), ("completion", "response", "answer")),
    "instruction": (("instruction",), ("output", "response")),
    "text": (("text",),),
}
ROLES = {
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
    **dict.fromkeys(("human",), "user"),
    **dict.fromkeys(("gpt", "model", "bot", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("observation", "function", "function_response", "tool_response", "ipython"), "tool"),
}


class Chat(NamedTuple):
    """A conversation, cut in front of the first turn that is to be learnt."""

    prompt: Any  # messages; or a string, a plain text, which is learnt whole
    completion: list[Message]  # of which the assistant's turns are learnt
    tools: list[Any]  # JSON schemas of the functions that may be called


def load_chats(config: Any, seed: int) -> dict[str, Dataset]:
    """Rows {"prompt", "completion", "tools"} of each split, JSON of what `Chat` has; those of the same prompt land on
    the same side of a cut. `config` is a `DataConfig` and a `ChatConfig`. Formats met are named in the log."""
    met = set()

    def convert(record: dict[str, Any]) -> Chat:
        known, columns = format_of(record, config.dataset_format)
        if known not in met:
            met.add(known)
            logger.warning("rows with the columns %s are read as %s", ", ".join(columns), known)
        return to_chat(record, known)

    schema = pa.schema([(name, pa.string()) for name in Chat._fields])
    compare = ["prompt", "completion"]
    return load_splits(config, columns={"record": ""}, seed=seed, compare=compare, read=as_json(convert), schema=schema)


def as_json(convert: Callable[[Any], Iterable[Any]]) -> Callable[[list[Any], list[str]], list[str]]:
    """For `load_rows`: what `convert` makes of the whole record, each value as JSON."""
    return lambda values, names: [json.dumps(value, ensure_ascii=False, default=str) for value in convert(values[0])]


def to_chat(record: dict[str, Any], dataset_format: str | None = None) -> Chat:
    """The conversation in a row of the format named, or of the first of `FORMATS` whose columns it has.

    Raises:
        Fault: it has the columns of none, or something else is wrong, and what.
    """
    _, names = format_of(record, dataset_format)
    system = [message("system", record["system"], "system")] if record.get("system") else []
    first = names[0]
    if names == ["text"]:
        return Chat(text(record["text"], "text"), [], [])
    if len(names) == 1:
        turns = system + read_messages(record[first], "user", first)
        start = next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), len(turns))
        prompt, completion = turns[:start], turns[start:]
    elif first == "instruction":
        more = record.get("input") or record.get("context") or ""
        question = text(record[first], first) + (f"\n\n{text(more, 'input')}" if more else "")
        prompt = [*system, message("user", question, first)]
        completion = [message("assistant", record[names[1]], names[1])]
    else:
        prompt = system + read_messages(record[first], "user", first)
        completion = read_messages(record[names[1]], "assistant", names[1])
    if not any(turn["role"] == "assistant" for turn in completion):
        raise Fault("nothing to learn: the assistant says nothing")
    tools = record.get("tools") or []
    return Chat(prompt, completion, without_nulls(json.loads(tools) if isinstance(tools, str) else tools))


def format_of(record: dict[str, Any], dataset_format: str | None = None) -> tuple[str, list[str]]:
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


def read_messages(value: Any, role: str, name: str) -> list[Message]:
    """`value`, which the row calls `name`, as messages: a string is one of `role`, a list has {"role", "content"} or
    {"from", "value"}.

    Raises:
        Fault: it is neither, a role is unknown, or a message says nothing.
    """
    if isinstance(value, str):
        return [message(role, value, name)]
    if not isinstance(value, list) or not value:
        raise Fault(f"{name} is not a list of messages: {value!r:.60}")
    return [_turn(turn, f"{name}[{number}]") for number, turn in enumerate(value)]


def message(role: str, content: Any, name: str) -> Message:
    return {"role": role, "content": text(content, name)}


def _turn(turn: Any, name: str) -> Message:
    if not isinstance(turn, dict):
        raise Fault(f"{name} is not a message but {turn!r:.60}")
    turn = without_nulls(turn)
    said = turn.pop("role", None) or turn.pop("from", None)
    if said not in ROLES:
        raise Fault(f"{name} has the role {said!r}; there are {', '.join(ROLES)}")
    content = turn.pop("content", None) or turn.pop("value", None) or ""
    if said == "function_call":
        call = json_or(content)
        turn["tool_calls"], content = [{"function": call}] if isinstance(call, dict) else [], ""
    if isinstance(content, list):
        content = "".join(_part(part, name) for part in content)
    if calls := turn.get("tool_calls"):
        turn["tool_calls"] = [_call(call, name) for call in calls]
    if not calls or content:
        text(content, name)
    return {"role": ROLES[said], "content": content, **turn}


def _part(part: Any, name: str) -> str:
    """Text of one part of a content that comes in parts."""
    if not isinstance(part, dict) or part.get("type") != "text":
        raise Fault(f"{name} holds something else than text: {part!r:.60}")
    return str(part.get("text", ""))


def _call(call: Any, name: str) -> dict[str, Any]:
    """A tool call with its arguments as an object, as chat templates expect; OpenAI writes them as a string."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise Fault(f"{name} has a tool call without a function name: {call!r:.60}")
    return {"type": "function", **call, "function": function | {"arguments": json_or(function.get("arguments", {}))}}


def json_or(value: Any) -> Any:
    """What the string says as JSON; the value itself if it is no JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def without_nulls(value: Any) -> Any:
    """Without the nulls that columnar files put where other rows have something."""
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value
