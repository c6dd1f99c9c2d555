"""Rows of preferences: the shapes they come in.

A row becomes {"prompt", "chosen", "rejected", "tools"}, JSON strings of messages; where an answer is labelled good or
bad instead of standing in a pair, the other side is "null".
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
PROMPTS = ("prompt", "question", "query", "conversations", "messages")  # names of a prompt, beside instruction/input
OPENAI = ("input", "preferred_output", "non_preferred_output")
LABEL, KEPT = ("label", "kto_tag"), {"true": True, "1": True, "false": False, "0": False}
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen_rating", "rejected_rating"))
DIALOGUE = re.compile(r"\s*(Human|Assistant):")
Messages = list[dict[str, Any]]


def to_preference(record: Mapping[str, Any]) -> tuple[Messages, Messages | None, Messages | None, list[Any]]:
    """(prompt, chosen, rejected, tools) of a row. Known are, with text or lists of messages for each:

    - prompt, chosen, rejected; the answers may begin with the prompt, and then it may be left out;
    - the same of dialogues in one text, "\\n\\nHuman: ...\\n\\nAssistant: ..." (hh-rlhf);
    - instruction, input, chosen, rejected; question, chosen, rejected; conversations, chosen, rejected; with `system`;
    - input ({"messages", "tools"}), preferred_output, non_preferred_output (OpenAI);
    - prompt, completion, label (true or false), or messages, label: then one of the two answers is None.

    Raises:
        Fault: it is none of these, or there is nothing to learn from it.
    """
    record = renamed(record)
    tools, prompt = chat.read_tools(record.get("tools")), prompt_of(record)
    if record.get("chosen") is None and (kept := label_of(record)) is not None:
        if record.get("completion") is None:  # the last message is the answer
            prompt, answer = prompt[:-1], _after([], prompt[-1:])
        else:
            answer = _after(prompt, _messages(record, "completion"))
        return prompt, answer if kept else None, None if kept else answer, tools
    if absent := [name for name in ("chosen", "rejected") if record.get(name) is None]:
        raise Fault(
            f"no {' and no '.join(absent)}: a pair is prompt, chosen, rejected; an answer to judge, for loss_type "
            f"kto, is prompt, completion, label. There are {', '.join(record)}"
        )
    chosen, rejected = _messages(record, "chosen"), _messages(record, "rejected")
    if chosen == rejected:
        raise Fault("chosen and rejected are the same")
    check_scores(record)
    if not prompt:
        same = [a == b for a, b in zip(chosen, rejected, strict=False)]
        prompt = chosen[: same.index(False) if False in same else len(same)]
        if not prompt:
            raise Fault("no prompt: neither a column (prompt, question, instruction, conversations) nor messages, or "
                        "turns of a dialogue, that chosen and rejected begin with alike")  # fmt: skip
    return prompt, _after(prompt, chosen), _after(prompt, rejected), tools


def renamed(record: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's names of a pair as ours."""
    if record.get("preferred_output") is None or record.get("non_preferred_output") is None:
        return dict(record)
    asked = parsed(record.get("input"))
    asked = asked if isinstance(asked, Mapping) and "messages" in asked else {"messages": asked}
    rest = {name: value for name, value in record.items() if name not in OPENAI}
    pair = {"chosen": record["preferred_output"], "rejected": record["non_preferred_output"]}
    return {**{f"input.{name}": value for name, value in asked.items()}, **rest, "prompt": asked["messages"],
            "tools": asked.get("tools") or record.get("tools"), **pair}  # fmt: skip


def label_of(record: Mapping[str, Any]) -> bool | None:
    """Whether the row's one answer is a good one; None of a row without a label.

    Raises:
        Fault: the label is something else than true or false.
    """
    name = next((name for name in LABEL if record.get(name) is not None), None)
    if name is None:
        return None
    value = record[name]
    value = KEPT.get(value.strip().lower()) if isinstance(value, str) else value
    if value not in (True, False):
        raise Fault(f"{name} is {record[name]!r}: true (a good answer) or false is needed")
    return bool(value)


def check_scores(record: Mapping[str, Any]) -> None:
    """Raises `Fault` where the row's own scores say that the rejected answer is the better one."""
    for first, second in SCORES:
        better, worse = record.get(first), record.get(second)
        if isinstance(better, int | float) and isinstance(worse, int | float) and better < worse:
            raise Fault(f"{first} {better:g} is below {second} {worse:g}: the pair is the wrong way round")


def prompt_of(record: Mapping[str, Any]) -> Messages:
    """The prompt of a row, whatever it is called; [] if there is none."""
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
    """Turns of a text "\\n\\nHuman: ...\\n\\nAssistant: ..."; one that is begun at the end, of a prompt, is none."""
    _, *cut = re.split(r"(?:\A|\n\n)\s*(Human|Assistant):", value)
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        {"role": roles[speaker], "content": content.strip()}
        for speaker, content in zip(cut[::2], cut[1::2], strict=True)
    ]
    begun = len(turns) > 1 and turns[-1] == {"role": "assistant", "content": ""}
    return chat.read_messages(turns[:-1] if begun else turns, "user", name)


def _after(prompt: Messages, answer: Messages) -> Messages:
    """The answer alone, of one that may begin with its prompt (without the prompt's system message, perhaps).

    Raises:
        Fault: nothing follows the prompt, or not the assistant.
    """
    for start in (prompt, [message for message in prompt if message["role"] != "system"]):
        if answer[: len(start)] == start:
            answer = answer[len(start) :]
    if not answer or answer[0]["role"] != "assistant":
        what = f"a message of {answer[0]['role']}" if answer else "nothing"
        raise Fault(f"after the prompt comes {what}, where the assistant's answer is needed")
    return answer


def load_preferences(
    config: PreferenceRecipeConfig | RewardConfig, *, seed: int, unpaired: bool = False
) -> dict[str, Rows]:
    """Rows {"prompt", "chosen", "rejected", "tools"} of each split. `unpaired`: answers with a label will do. `config`
    is a `DataConfig` and a `ChatConfig`. Columns that nothing reads are in the log."""
    unread = Unread()

    def convert(record: dict[str, Any]) -> tuple[Any, ...]:
        prompt, chosen, rejected, tools = found = to_preference(record)
        if None in found and not unpaired:
            raise Fault("an answer with a label, and no pair: set loss_type kto")
        unread.count(renamed(record), read_of(record))
        if not config.system_to_user:
            return found
        return *(messages and chat.fold_system(messages) for messages in (prompt, chosen, rejected)), tools

    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    columns = {"record": ""}
    rows = load_splits(
        config, columns=columns, seed=seed, compare=COLUMNS[:3], read=chat.as_json(convert), schema=schema
    )
    unread.warn(chat.UNREAD_ADVICE)
    return rows


def read_of(record: Mapping[str, Any]) -> list[str]:
    """Columns of a row that `to_preference` reads, by the names that `renamed` gives them."""
    record = renamed(record)
    asked = ["instruction", "input", "context", "history"]
    if record.get("instruction") is None:
        asked = [name for name in PROMPTS if record.get(name) is not None][:1]
    scores = [name for pair in SCORES for name in pair]
    answers = ["chosen", "rejected", *scores] if record.get("chosen") is not None else ["completion", *LABEL]
    return [*asked, *answers, "system", "tools", "input.messages", "input.tools"]
