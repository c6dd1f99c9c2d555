"""Rows of preferences in all usual formats.

A row becomes {"prompt", "chosen", "rejected", "tools"}, JSON strings of messages; if an answer is labelled good or bad
and not part of a pair, the other side is "null".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.data.readers import Fault
from hftrain.data.splits import load_splits
from hftrain.data.unread import Unread
from hftrain.tasks import chat
from hftrain.tasks.chat.messages import parsed

if TYPE_CHECKING:
    from hftrain.data.rows import Rows
    from hftrain.tasks.preference.config import PreferenceRecipeConfig, RewardConfig

logger = logging.getLogger(__name__)

COLUMNS = ("prompt", "chosen", "rejected", "tools")
PROMPTS = ("prompt", "question", "query", "conversations", "messages")  # names of a prompt besides instruction/input
OPENAI = ("input", "preferred_output", "non_preferred_output")
LABEL, KEPT = ("label", "kto_tag"), {"true": True, "1": True, "false": False, "0": False}
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen_rating", "rejected_rating"))
DIALOGUE = re.compile(r"\s*(Human|Assistant):")
Messages = list[dict[str, Any]]


def to_preference(record: Mapping[str, Any]) -> tuple[Messages, Messages | None, Messages | None, list[Any]]:
    """(prompt, chosen, rejected, tools) of a row. The formats, with text or lists of messages in each column:

    - prompt, chosen, rejected; if the answers begin with the prompt, its column may be missing;
    - the same with dialogues as texts, "\\n\\nHuman: ...\\n\\nAssistant: ..." (hh-rlhf);
    - instruction, input, chosen, rejected; question, chosen, rejected; conversations, chosen, rejected; with `system`;
    - input ({"messages", "tools"}), preferred_output, non_preferred_output (OpenAI);
    - prompt, completion, label (true or false), or messages, label: then one of the two answers is None.

    Raises:
        Fault: the row fits no format, or has nothing to learn.
    """
    record = renamed(record)
    tools, prompt = chat.read_tools(record.get("tools")), prompt_of(record)
    if record.get("chosen") is None and (label := label_of(record)) is not None:
        if record.get("completion") is None:  # the last message is the answer
            prompt, answer = prompt[:-1], _after([], prompt[-1:])
        else:
            answer = _after(prompt, _messages(record, "completion"))
        return prompt, answer if label else None, None if label else answer, tools
    if absent := [name for name in ("chosen", "rejected") if record.get(name) is None]:
        raise Fault(
            f"the row lacks {' and '.join(absent)}: a pair is prompt, chosen, rejected; a labelled answer, for "
            f"loss_type kto, is prompt, completion, label. Its columns are {', '.join(record)}"
        )
    chosen, rejected = _messages(record, "chosen"), _messages(record, "rejected")
    if chosen == rejected:
        raise Fault("chosen and rejected are the same")
    check_scores(record)
    if not prompt:
        same = [a == b for a, b in zip(chosen, rejected, strict=False)]
        prompt = chosen[: same.index(False) if False in same else len(same)]
        if not prompt:
            raise Fault(
                "the row has no prompt: it needs a column prompt, question, instruction or conversations, or chosen "
                "and rejected must begin with the same messages or turns of a dialogue"
            )
    return prompt, _after(prompt, chosen), _after(prompt, rejected), tools


def renamed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The row with OpenAI's names of a pair replaced by ours."""
    if record.get("preferred_output") is None or record.get("non_preferred_output") is None:
        return dict(record)
    prompt = parsed(record.get("input"))
    prompt = prompt if isinstance(prompt, Mapping) and "messages" in prompt else {"messages": prompt}
    others = {name: value for name, value in record.items() if name not in OPENAI}
    pair = {"chosen": record["preferred_output"], "rejected": record["non_preferred_output"]}
    return {
        **{f"input.{name}": value for name, value in prompt.items()},
        **others,
        "prompt": prompt["messages"],
        "tools": prompt.get("tools") or record.get("tools"),
        **pair,
    }


def label_of(record: Mapping[str, Any]) -> bool | None:
    """Whether the row's only answer is good; None if the row has no label.

    Raises:
        Fault: the label is neither true nor false.
    """
    name = next((name for name in LABEL if record.get(name) is not None), None)
    if name is None:
        return None
    value = record[name]
    value = KEPT.get(value.strip().lower()) if isinstance(value, str) else value
    if value not in (True, False):
        raise Fault(f"{name} is {record[name]!r}: write true (a good answer) or false (a bad one)")
    return bool(value)


def check_scores(record: Mapping[str, Any]) -> None:
    """Raises `Fault` if the row's own scores prefer the rejected answer."""
    for first, second in SCORES:
        better, worse = record.get(first), record.get(second)
        if isinstance(better, int | float) and isinstance(worse, int | float) and better < worse:
            raise Fault(f"{first} {better:g} is below {second} {worse:g}: chosen and rejected are swapped")


def prompt_of(record: Mapping[str, Any]) -> Messages:
    """The prompt of a row, by any of its names; [] if it has none."""
    if record.get("instruction") is not None:
        prompt, completion, _ = chat.to_chat({**record, "output": "-"}, "instruction")
        return prompt + completion[:-1]
    name = next((name for name in PROMPTS if record.get(name) is not None), None)
    messages = _messages(record, name, "user") if name and record[name] else []
    system = record.get("system")
    return chat.read_messages(system, "system", "system") + messages if system else messages


def _messages(record: Mapping[str, Any], name: str, role: str = "assistant") -> Messages:
    value = record[name]
    if isinstance(value, str) and DIALOGUE.match(value):
        return read_dialogue(value, name)
    return chat.read_messages([value] if isinstance(value, Mapping) else value, role, name)


def read_dialogue(value: str, name: str) -> Messages:
    """Turns of a text "\\n\\nHuman: ...\\n\\nAssistant: ..."; an empty last turn, where a prompt ends, is left out."""
    _, *cut = re.split(r"(?:\A|\n\n)\s*(Human|Assistant):", value)
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        {"role": roles[speaker], "content": content.strip()}
        for speaker, content in zip(cut[::2], cut[1::2], strict=True)
    ]
    begun = len(turns) > 1 and turns[-1] == {"role": "assistant", "content": ""}
    return chat.read_messages(turns[:-1] if begun else turns, "user", name)


def _after(prompt: Messages, answer: Messages) -> Messages:
    """The answer without the prompt that it may begin with (perhaps without the prompt's system message).

    Raises:
        Fault: nothing follows the prompt, or a message that is not the assistant's.
    """
    for start in (prompt, [message for message in prompt if message["role"] != "system"]):
        if answer[: len(start)] == start:
            answer = answer[len(start) :]
    if not answer or answer[0]["role"] != "assistant":
        what = f"a message of {answer[0]['role']}" if answer else "nothing"
        raise Fault(f"after the prompt comes {what} instead of the assistant's answer")
    return answer


def load_preferences(
    config: PreferenceRecipeConfig | RewardConfig, *, seed: int, unpaired: bool = False
) -> dict[str, Rows]:
    """Rows {"prompt", "chosen", "rejected", "tools"} of each split. `unpaired`: accepts labelled answers too. `config`
    is a `DataConfig` and a `ChatConfig`. The log names the columns that are not read."""
    unread = Unread()

    def convert(record: dict[str, Any]) -> tuple[Any, ...]:
        prompt, chosen, rejected, tools = preference = to_preference(record)
        if None in preference and not unpaired:
            raise Fault("a labelled answer is not a pair: set loss_type kto")
        unread.count(renamed(record), read_of(record))
        if not config.system_to_user:
            return preference
        return *(messages and chat.fold_system(messages) for messages in (prompt, chosen, rejected)), tools

    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    columns = {"record": ""}
    rows = load_splits(
        config, columns=columns, seed=seed, compare=COLUMNS[:3], read=chat.as_json(convert), schema=schema
    )
    unread.warn(chat.UNREAD_ADVICE)
    return rows


def read_of(record: Mapping[str, Any]) -> list[str]:
    """The columns of a row that `to_preference` reads, by their names after `renamed`."""
    record = renamed(record)
    prompts = ["instruction", "input", "context", "history"]
    if record.get("instruction") is None:
        prompts = [name for name in PROMPTS if record.get(name) is not None][:1]
    scores = [name for pair in SCORES for name in pair]
    answers = ["chosen", "rejected", *scores] if record.get("chosen") is not None else ["completion", *LABEL]
    return [*prompts, *answers, "system", "tools", "input.messages", "input.tools"]
