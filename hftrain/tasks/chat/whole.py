"""Does what a chat template renders say all that the conversation says? Tried by rendering, never taken on trust."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from hftrain.data.readers import Fault
from hftrain.tasks.chat.messages import Message

REASONING = ("reasoning_content", "reasoning", "thinking")  # keys of what the assistant thinks before it answers
LAST_WORD = re.compile(r"\w*\W*\Z")


class Whole:
    """The check, with what it has found out of the template.

    Attributes:
        notices: what is left out and does no harm, and how often.
    """

    def __init__(self, render: Callable[..., str], notices: Counter[str]):
        self.render, self.notices = render, notices
        # Whether the template renders a key of a role, where it is learnt and where it is not: the first trial of each.
        self.known: dict[tuple[str, str, bool], bool] = {}

    def check(self, text: str, messages: list[Message], tools: Sequence[Any], learnt: Collection[int]) -> None:
        """Raises `Fault` where the rendered `text` does not say all of the conversation in its order. Of an earlier
        answer, one that is not among the `learnt`, a template may leave out the beginning: its reasoning."""
        position = 0
        for number, message in enumerate(messages):
            for key, part in parts(message, number in learnt):
                found = find(text, part, position)
                if found < 0 and key == "content" and message["role"] == "assistant" and number not in learnt:
                    found = find(text, LAST_WORD.findall(part[-200:])[0], position)
                    if found >= 0:
                        self.notices["the chat template leaves out a part of earlier answers, such as reasoning"] += 1
                if found < 0 and (squeezed := squeeze(part)) and squeezed in squeeze(text[position:]):
                    self.notices["the chat template changes the blanks or line breaks of messages"] += 1
                    found = position
                if found < 0:
                    what = f"message {number + 1} ({message['role']}): {part!r:.60}"
                    if key != "content":
                        way_out = "; choose a chat_template that renders it, or write it into the content"
                        raise Fault(f"the chat template drops {key} of {what}{way_out}")
                    raise Fault(f"the chat template drops or changes {what}")
                position = found
        self._check_keys(text, messages, tools, learnt)
        self._check_tools(text, messages, tools)

    def _check_keys(self, text: str, messages: list[Message], tools: Sequence[Any], learnt: Collection[int]) -> None:
        """Tries each key of the messages: does the text change without it? What is to be learnt must not be lost."""
        numbers: dict[tuple[str, str], list[int]] = {}
        for number, message in enumerate(messages):
            for key in [name for name, value in message.items() if value and name not in ("role", "content")]:
                numbers.setdefault((key, message["role"]), []).append(number)
            if any(call["function"].get("arguments") for call in message.get("tool_calls", [])):
                numbers.setdefault(("arguments", message["role"]), []).append(number)
        for (key, role), places in sorted(numbers.items(), key=lambda item: (item[0][0] == "arguments", item[0])):
            trial = key, role, bool(lost := [number for number in places if number in learnt])
            if trial not in self.known:
                without = [without_key(m, key) if m["role"] == role else m for m in messages]
                self.known[trial] = self._differs(text, without, tools)
            if self.known[trial]:
                continue
            if lost and key in (*REASONING, "tool_calls", "arguments"):
                raise Fault(f"the chat template drops {key} of message {lost[0] + 1} ({role})")
            self.notices[f"the chat template does not render {key!r} of messages of the role {role}"] += 1

    def _check_tools(self, text: str, messages: list[Message], tools: Sequence[Any]) -> None:
        functions = [tool.get("function", tool) for tool in tools]
        for function in functions:
            if function["name"] not in text:
                raise Fault(f"the chat template drops the tool {function['name']!r}")
        for key in sorted({key for function in functions for key in function} - {"name"}):
            trial = key, "tools", False
            if trial not in self.known:
                without = [{name: value for name, value in function.items() if name != key} for function in functions]
                changed = [
                    {**tool, "function": function} if "function" in tool else function
                    for tool, function in zip(tools, without, strict=True)
                ]
                self.known[trial] = self._differs(text, messages, changed)
            if not self.known[trial]:
                self.notices[f"the chat template does not render {key!r} of tools"] += 1

    def _differs(self, text: str, messages: list[Message], tools: Sequence[Any]) -> bool:
        try:
            return self.render(messages, tools) != text
        except Fault:  # the template needs what was taken away
            return True


def parts(message: Message, learnt: bool) -> Iterator[tuple[str, str]]:
    """(key, text) of what must stand in the rendered text, in its order."""
    for key in REASONING:
        if learnt and isinstance(message.get(key), str):
            yield key, message[key].strip()
    yield "content", message["content"].strip()
    for call in message.get("tool_calls", []):
        yield "tool_calls", call["function"]["name"]


def without_key(message: Message, key: str) -> Message:
    """The message without one of its keys; without the arguments of its calls, if that is the key."""
    if key == "arguments":
        calls = [{**call, "function": {**call["function"], key: {}}} for call in message.get("tool_calls", [])]
        return {**message, "tool_calls": calls} if calls else message
    return {name: value for name, value in message.items() if name != key}


def find(text: str, part: str, position: int) -> int:
    """Where `part` stands in `text` from `position` on, as it is or as JSON spells it; -1 where it does not."""
    places = (text.find(spelled, position) for spelled in (part, *json_spellings(part)))
    return next((place for place in places if place >= 0), -1)


def json_spellings(part: str) -> Iterator[str]:
    yield json.dumps(part, ensure_ascii=False)[1:-1]
    yield json.dumps(part)[1:-1]


def squeeze(text: str) -> str:
    return "".join(text.split())
