"""Checks, by rendering, that a chat template keeps all of a conversation."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from hftrain.data.readers import Fault
from hftrain.tasks.chat.messages import Message

REASONING = ("reasoning_content", "reasoning", "thinking")  # keys of the assistant's reasoning before an answer
LAST_WORD = re.compile(r"\w*\W*\Z")


class Whole:
    """The check, with a memory of what the template renders.

    Attributes:
        notices: harmless omissions, with counts.
    """

    def __init__(self, render: Callable[..., str], notices: Counter[str]):
        self.render, self.notices = render, notices
        # (key, role, learnt): whether the template renders the key, from the first trial.
        self.renders: dict[tuple[str, str, bool], bool] = {}

    def check(self, text: str, messages: list[Message], tools: Sequence[Any], learnt: Collection[int]) -> None:
        """Raises `Fault` if the rendered `text` lacks a part of the conversation or changes its order. A template may
        drop the beginning (the reasoning) of an earlier answer, one that is not among the `learnt`."""
        position = 0
        for number, message in enumerate(messages):
            for key, part in parts(message, number in learnt):
                place = find(text, part, position)
                if place < 0 and key == "content" and message["role"] == "assistant" and number not in learnt:
                    place = find(text, LAST_WORD.findall(part[-200:])[0], position)
                    if place >= 0:
                        self.notices["the chat template leaves out a part of earlier answers, such as reasoning"] += 1
                if place < 0 and (squeezed := squeeze(part)) and squeezed in squeeze(text[position:]):
                    self.notices["the chat template changes the blanks or line breaks of messages"] += 1
                    place = position
                if place < 0:
                    what = f"message {number + 1} ({message['role']}): {part!r:.60}"
                    if key != "content":
                        way_out = "; choose a chat_template that renders it, or write it into the content"
                        raise Fault(f"the chat template drops {key} of {what}{way_out}")
                    raise Fault(f"the chat template drops or changes {what}")
                position = place
        self._check_keys(text, messages, tools, learnt)
        self._check_tools(text, messages, tools)

    def _check_keys(self, text: str, messages: list[Message], tools: Sequence[Any], learnt: Collection[int]) -> None:
        """Tries each key of the messages: does the text change without it? Learnt parts must not be lost."""
        numbers: dict[tuple[str, str], list[int]] = {}
        for number, message in enumerate(messages):
            for key in [name for name, value in message.items() if value and name not in ("role", "content")]:
                numbers.setdefault((key, message["role"]), []).append(number)
            if any(call["function"].get("arguments") for call in message.get("tool_calls", [])):
                numbers.setdefault(("arguments", message["role"]), []).append(number)
        for (key, role), places in sorted(numbers.items(), key=lambda item: (item[0][0] == "arguments", item[0])):
            trial = key, role, bool(lost := [number for number in places if number in learnt])
            if trial not in self.renders:
                without = [without_key(m, key) if m["role"] == role else m for m in messages]
                self.renders[trial] = self._differs(text, without, tools)
            if self.renders[trial]:
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
            if trial not in self.renders:
                without = [{name: value for name, value in function.items() if name != key} for function in functions]
                changed = [
                    {**tool, "function": function} if "function" in tool else function
                    for tool, function in zip(tools, without, strict=True)
                ]
                self.renders[trial] = self._differs(text, messages, changed)
            if not self.renders[trial]:
                self.notices[f"the chat template does not render {key!r} of tools"] += 1

    def _differs(self, text: str, messages: list[Message], tools: Sequence[Any]) -> bool:
        try:
            return self.render(messages, tools) != text
        except Fault:  # the template needs the key
            return True


def parts(message: Message, learnt: bool) -> Iterator[tuple[str, str]]:
    """(key, text) of the parts that the rendered text must contain, in order."""
    for key in REASONING:
        if learnt and isinstance(message.get(key), str):
            yield key, message[key].strip()
    yield "content", message["content"].strip()
    for call in message.get("tool_calls", []):
        yield "tool_calls", call["function"]["name"]


def without_key(message: Message, key: str) -> Message:
    """The message without one of its keys; without the arguments of its calls if `key` is "arguments"."""
    if key == "arguments":
        calls = [{**call, "function": {**call["function"], key: {}}} for call in message.get("tool_calls", [])]
        return {**message, "tool_calls": calls} if calls else message
    return {name: value for name, value in message.items() if name != key}


def find(text: str, part: str, position: int) -> int:
    """The place of `part` in `text` from `position` on, unchanged or as JSON spells it; -1 if it is missing."""
    places = (text.find(spelled, position) for spelled in (part, *json_spellings(part)))
    return next((place for place in places if place >= 0), -1)


def json_spellings(part: str) -> Iterator[str]:
    yield json.dumps(part, ensure_ascii=False)[1:-1]
    yield json.dumps(part)[1:-1]


def squeeze(text: str) -> str:
    return "".join(text.split())
