"""Messages in any usual form: a list, JSON, one string, with tool calls of any spelling."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from hftrain.data.readers import Fault, text

Message = dict[str, Any]
ROLES = {
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
    **dict.fromkeys(("human",), "user"),
    **dict.fromkeys(("gpt", "model", "bot", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("observation", "function", "function_response", "tool_response", "ipython"), "tool"),
}
SYSTEM = ("system", "developer")
# Keys for whether a message is learnt, as OpenAI, Mistral, axolotl and ms-swift write them.
LEARNT = ("weight", "train", "training", "trainable", "loss")
LISTED = re.compile(r"""\s*\[?\s*\{\s*["'](role|from|content|value)["']\s*:""")


def read_messages(value: object, role: str, name: str) -> list[Message]:
    """`value`, which the row calls `name`, as messages. A string is one message of `role`; a list has {"role",
    "content"} or {"from", "value"}, and may be written as a string, in JSON or as Python prints it.

    An assistant's message that is not learnt gets "weight": 0, whichever key it used.

    Raises:
        Fault: the value has another form, a role is unknown, or a message is empty.
    """
    if isinstance(value, str):
        listed = listed_in(value, name)
        if listed is None:
            return [message(role, value, name)]
        value = listed
    if not isinstance(value, list) or not value:
        raise Fault(f"{name} is not a list of messages: {value!r:.60}")
    return [_turn(turn, f"{name}[{number}]") for number, turn in enumerate(value)]


def message(role: str, content: object, name: str) -> Message:
    return {"role": role, "content": text(content, name)}


def listed_in(value: str, name: str) -> list[Any] | None:
    """The list of messages that a text spells; None if it is an ordinary text.

    Raises:
        Fault: it begins like such a list but cannot be read.
    """
    if not value.lstrip().startswith(("[", "{")):
        return None
    listed = parsed(value)
    listed = [listed] if isinstance(listed, dict) else listed
    if isinstance(listed, list) and listed and all(isinstance(turn, dict) and _role(turn) for turn in listed):
        return listed
    if LISTED.match(value):
        raise Fault(f"{name} looks like messages written as text, but is not a JSON list: {value!r:.60}")
    return None


def _role(turn: dict[str, Any]) -> str | None:
    """The role by our name for it; None if it is unknown."""
    role = turn.get("role") if turn.get("role") is not None else turn.get("from")
    return ROLES.get(role.lower()) if isinstance(role, str) else None


def parsed(value: object) -> Any:
    """The value that a string spells, in JSON or as Python prints it; otherwise the argument itself."""
    if not isinstance(value, str):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return value


def _turn(turn: object, name: str) -> Message:
    if not isinstance(turn, dict):
        raise Fault(f"{name} is not a message but {turn!r:.60}")
    turn = {key: value for key, value in turn.items() if value is not None}
    role = _role(turn)
    if role is None:
        keys = "" if "role" in turn or "from" in turn else f" (its keys are {', '.join(turn)})"
        raise Fault(f"{name} has the role {turn.get('role', turn.get('from'))!r}{keys}; roles are {', '.join(ROLES)}")
    spelled = str(turn.pop("role") if "role" in turn else turn.pop("from")).lower()
    content = turn.pop("content", "")
    if content == "":
        content = turn.pop("value", "")
    if isinstance(content, list):
        content = "".join(_part(part, name) for part in content)
    calls = parsed(turn.pop("tool_calls", [])) or []
    if spelled == "function_call":
        calls, content = parsed(content), ""
    elif "function_call" in turn and not calls:
        calls = turn.pop("function_call")
    if calls:
        calls = calls if isinstance(calls, list) else [calls]
        turn["tool_calls"] = [_call(call, name) for call in calls]
    if not calls or content != "":
        text(content, name)
    return {"role": role, "content": content, **_weighed(turn, role, name)}


def _weighed(turn: Message, role: str, name: str) -> Message:
    """The turn with at most one key for whether it is learnt: "weight": 0 if it is not. Only the assistant's messages
    are ever learnt: a key that demands more stays, so that the log names it as a key that is not read."""
    weights = {key: turn[key] for key in LEARNT if key in turn}
    for key, value in weights.items():
        if value not in (0, 1):
            raise Fault(f"{name} has {key} {value!r}: write 1 or true to learn a message, 0 or false not to")
        if role == "assistant" or not value:
            del turn[key]
    return {**turn, "weight": 0} if role == "assistant" and not all(weights.values()) else turn


def _part(part: object, name: str) -> str:
    """The text of one part of a content that is a list."""
    content = part if isinstance(part, str) else None
    if isinstance(part, dict) and part.get("type", "text") in ("text", "input_text", "output_text"):
        content = part.get("text")
    if not isinstance(content, str):
        raise Fault(f"{name} is not text: {part!r:.60}")
    return content


def _call(call: Any, name: str) -> dict[str, Any]:
    """A tool call with its arguments as an object, as chat templates expect; OpenAI writes them as a string."""
    if isinstance(call, dict) and "function" not in call and "name" in call:  # only the function
        call = {"function": call}
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Fault(f"{name} has a tool call without a function name: {call!r:.60}")
    arguments = function.get("arguments") or {}
    if isinstance(spelled := parsed(arguments), dict):
        arguments = spelled
    elif not isinstance(arguments, str):  # code, for instance, which a template may write unchanged
        raise Fault(f"{name} calls {function['name']} with arguments that are not an object: {arguments!r:.60}")
    return {"type": "function", **call, "function": function | {"arguments": arguments}}


def read_tools(value: object) -> list[Any]:
    """JSON schemas of functions, from a list or from text that spells one; [] if empty.

    Raises:
        Fault: it is not such a list.
    """
    tools = parsed(value) or []
    if not isinstance(tools, list):
        raise Fault(f"tools is not a list of functions: {value!r:.60}")
    for number, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Fault(f"tools[{number}] is not a function with a name: {tool!r:.60}")
    return tools


def fold_system(messages: list[Message]) -> list[Message]:
    """Prepends each system message to the next user message, with a blank line between.

    Raises:
        Fault: no user message follows one.
    """
    folded: list[Message] = []
    waiting: list[str] = []
    for turn in messages:
        if turn["role"] in SYSTEM:
            waiting.append(turn["content"])
        elif turn["role"] == "user" and waiting:
            folded.append({**turn, "content": "\n\n".join([*waiting, turn["content"]])})
            waiting = []
        else:
            folded.append(turn)
    if waiting:
        raise Fault("no user message follows a system message, so system_to_user cannot prepend it to one")
    return folded
