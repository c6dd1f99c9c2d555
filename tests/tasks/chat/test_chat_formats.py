"""Formats of chats: what is read, learnt and refused."""

import json

import pytest

from hftrain.data.readers import Fault
from hftrain.tasks import chat
from tests.tasks.chat.test_chat import AGAIN, ANSWER, CALL, MORE, SYSTEM, TOOL, USER

# ---- formats


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": [USER, ANSWER]}, ([USER], [ANSWER], [])),
        ({"messages": [SYSTEM, USER, ANSWER, AGAIN, MORE]}, ([SYSTEM, USER], [ANSWER, AGAIN, MORE], [])),
        ({"prompt": "a few", "completion": "words"}, ([USER], [ANSWER], [])),
        ({"prompt": [USER, ANSWER, AGAIN], "completion": [MORE], "id": 7}, ([USER, ANSWER, AGAIN], [MORE], [])),
        ({"question": "a few", "answer": "words"}, ([USER], [ANSWER], [])),
        ({"instruction": "a few", "input": "", "output": "words"}, ([USER], [ANSWER], [])),
        (
            {"instruction": "a", "input": "b", "output": "words", "system": "no weight"},
            ([SYSTEM, {"role": "user", "content": "a\n\nb"}], [ANSWER], []),
        ),
        (
            {"conversations": [{"from": "human", "value": "a few"}, {"from": "gpt", "value": "words"}]},
            ([USER], [ANSWER], []),
        ),
        ({"conversations": [USER, ANSWER], "system": "no weight"}, ([SYSTEM, USER], [ANSWER], [])),
        ({"text": "a plain text"}, ("a plain text", [], [])),
        (  # OpenAI's arguments are a string; other rows of a columnar file leave nulls behind
            {
                "messages": [
                    {**USER, "tool_calls": None},
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}],
                    },
                    {"role": "tool", "content": [{"type": "text", "text": "2"}]},
                    ANSWER,
                ],
                "tools": json.dumps([TOOL]),
            },
            (
                [USER],
                [{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "2"}, ANSWER],
                [TOOL],
            ),
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "a few"},
                    {"from": "function_call", "value": '{"name": "add", "arguments": {"x": 1}}'},
                    {"from": "observation", "value": "2"},
                    {"from": "gpt", "value": "words"},
                ]
            },
            (
                [USER],
                [{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "2"}, ANSWER],
                [],
            ),
        ),
    ],
)
def test_formats(record, expected):
    assert tuple(chat.to_chat(record)) == expected


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (
            {"source": "a"},
            "the columns 'source' fit no chat format; formats and their columns: messages: messages; conv",
        ),
        ({"messages": [USER]}, "nothing to learn: there is no message of the assistant"),
        ({"messages": "a few"}, "messages is text, but must be a list of messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, r"messages\[0\] has the role 'robot'; roles are system, "),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, r"messages\[1\] is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, "is not text"),
        ({"prompt": "a", "completion": 3}, "completion is not a list of messages: 3"),
        ({"instruction": "a", "output": ""}, "output is empty"),
    ],
)
def test_rows_that_are_no_chat(record, reason):
    with pytest.raises(Fault, match=reason):
        chat.to_chat(record)


def test_a_forced_format():
    record = {"messages": [USER, ANSWER], "text": "plain"}
    assert chat.to_chat(record, "text").prompt == "plain" and chat.to_chat(record).prompt == [USER]
    with pytest.raises(Fault, match="formats and their columns: instruction: instruction and output or response"):
        chat.to_chat(record, "instruction")
