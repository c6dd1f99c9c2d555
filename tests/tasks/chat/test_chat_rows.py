"""Rows of chats as people bring them: conventions are followed, and what nothing reads or a template loses is named."""

import json
from dataclasses import dataclass

import pytest

from hftrain.config import DataConfig
from hftrain.data.readers import Fault
from hftrain.tasks import chat
from hftrain.tasks.chat.template import CHATML
from hftrain.tasks.preference import load_preferences, to_preference, tokenize_preferences
from tests.tiny import MARKS, chat_tokenizer

pytestmark = pytest.mark.unit

USER, ANSWER = {"role": "user", "content": "a few"}, {"role": "assistant", "content": "words"}
AGAIN, MORE = {"role": "user", "content": "and numbers"}, {"role": "assistant", "content": "1 2 3"}
SYSTEM = {"role": "system", "content": "no weight"}
SLIP = {**ANSWER, "content": "no words", "weight": 0}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1, "until": None}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"default": None}}}

THINKS = (  # as Qwen3's: the reasoning of earlier answers is left out, and the last has a place for it
    "{% for m in messages %}<|{{ m['role'] }}|>{% set body = m['content'].split('</t>')[-1] %}"
    "{% if m['role'] == 'assistant' and loop.last and '</t>' in m['content'] %}{{ m['content'] }}{% else %}{{ body }}"
    "{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALLS = (  # the names of calls, and their arguments where ARGUMENTS stands
    "{% for tool in tools or [] %}<|system|>{{ tool['function']['name'] }}{% endfor %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% for c in m['tool_calls'] or [] %}"
    "{{ c['function']['name'] }}ARGUMENTS{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def make(tmp_path):
    """A template of this Jinja text; the tokenizer's own of none."""

    def template(text=None):
        file = tmp_path / "template.jinja"
        file.write_text(text or "")
        return chat.Template(chat_tokenizer(), str(file) if text else None)

    return template


@dataclass
class Settings(chat.SupervisedConfig, DataConfig):
    pass


def settings(file, **changes):
    return Settings(train_file=str(file), **{"validation_split": 2, "test_split": 2, "max_length": 64} | changes)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def learnt(template, *conversation):
    decode = template.tokenizer.decode
    _, labels = template.encode(*conversation)
    text = "".join(decode([label]).strip() if label >= 0 else "·" for label in labels)
    return [part for part in text.split("·") if part]


# ---- what is learnt


@pytest.mark.parametrize("key", ["weight", "train", "training", "trainable", "loss"])
@pytest.mark.parametrize("names", [("role", "content"), ("from", "value")])
def test_an_answer_of_weight_0_is_context(make, key, names):
    turns = [
        USER,
        {**ANSWER, key: 0},
        AGAIN,
        {**MORE, key: 1},
        USER,
        {**ANSWER, key: False},
        AGAIN,
        {**MORE, key: True},
    ]
    turns = [{{"role": names[0], "content": names[1]}.get(k, k): v for k, v in turn.items()} for turn in turns]
    found = chat.to_chat({"conversations" if names[0] == "from" else "messages": turns})
    assert found.prompt == [USER, {**ANSWER, "weight": 0}, AGAIN]
    for template in (make(), chat.Template(chat_tokenizer(), "chatml")):
        end = template.tokenizer.decode([template.end_id])
        assert learnt(template, *found) == [f"123{end}", f"123{end}"]
    assert template.source == CHATML and template.marks


def test_split_turns_skip_what_is_not_learnt(make, tmp_path):
    turns = [USER, ANSWER, AGAIN, SLIP, AGAIN, MORE]
    rows = chat.load_chats(settings(write(tmp_path / "a.jsonl", [{"messages": turns}] * 1 + OTHERS)), seed=1)
    template = make()
    examples = chat.tokenize(rows["train"], template, settings("-", split_turns=True))
    said = {template.tokenizer.decode([i for i in row["labels"] if i >= 0]) for row in examples}
    assert "no words<|end|>" not in said and {"words<|end|>", "1 2 3<|end|>"} <= said


OTHERS = [{"prompt": f"words {i}", "completion": f"numbers {i}"} for i in range(8)]


def test_weights_that_cannot_be():
    with pytest.raises(Fault, match=r"messages\[1\] has weight 0.5: write 1 or true to learn a message"):
        chat.to_chat({"messages": [USER, {**ANSWER, "weight": 0.5}]})
    with pytest.raises(Fault, match="all messages of the assistant have weight 0"):
        chat.to_chat({"messages": [USER, SLIP]})


def test_a_greeting_is_context(make):
    greeting = {"role": "assistant", "content": "some words"}
    found = chat.to_chat({"messages": [greeting, USER, ANSWER]})
    assert found == ([greeting, USER], [ANSWER], [])
    assert learnt(make(), *found) == ["words<|end|>"]
    with pytest.raises(Fault, match="comes first and answers nothing"):
        chat.to_chat({"messages": [greeting]})


def test_a_template_that_refuses_a_greeting_names_the_line(make, tmp_path):
    rows = [*OTHERS, {"messages": [ANSWER, USER, MORE]}]
    config = settings(write(tmp_path / "a.jsonl", rows), validation_split=1, test_split=1)
    text = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('users first') }}{% endif %}" + NO_SYSTEM
    with pytest.raises(ValueError, match=r"a\.jsonl, line 9: the chat template refuses the conversation: users first"):
        for split in chat.load_chats(config, seed=1).values():
            chat.tokenize(split, make(text), config)


# ---- formats


@pytest.mark.parametrize("spell", [json.dumps, repr])
def test_messages_written_as_text(spell):
    expected = ([USER], [ANSWER], [])
    assert chat.to_chat({"prompt": spell([USER]), "completion": spell([ANSWER])}) == expected
    assert chat.to_chat({"messages": spell([USER, ANSWER]), "tools": spell([TOOL])}) == (*expected[:2], [TOOL])
    assert chat.to_chat({"prompt": spell(USER), "completion": "words"}) == expected
    assert to_preference({"prompt": spell([USER]), "chosen": spell([ANSWER]), "rejected": "no"})[:2] == expected[:2]


def test_json_that_is_no_message_is_text():
    for said in ('{"a": 1}', "[1, 2]", '["role"]', "{role}", "[{}]"):
        assert chat.to_chat({"prompt": said, "completion": said}).completion == [{**ANSWER, "content": said}]
    with pytest.raises(Fault, match="prompt looks like messages written as text, but is not a JSON list"):
        chat.to_chat({"prompt": '[{"role": "user", "content": "cut', "completion": "a"})


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "and numbers", "output": "1 2 3", "history": [["a few", "words"]], "system": "no weight"},
        {"query": "and numbers", "response": "1 2 3", "history": '[["a few", "words"]]', "system": "no weight"},
        {"instruction": "and numbers", "output": "1 2 3", "history": [USER, ANSWER], "system": "no weight"},
        {"messages": [SYSTEM, USER, ANSWER, AGAIN, MORE], "system": "no weight"},
        {"conversations": [{"from": "Human", "value": "a few"}, {"from": "GPT", "value": "words"}, AGAIN, MORE],
         "system": "no weight"},
        {"messages": [SYSTEM, USER, {"role": "assistant", "content": ["wo", {"type": "text", "text": "rds"}]},
                      {**AGAIN, "name": None}, MORE]},
    ],
)  # fmt: skip
def test_conventions(record):
    assert chat.to_chat(record) == ([SYSTEM, USER], [ANSWER, AGAIN, MORE], [])


@pytest.mark.parametrize(
    "call",
    [
        {"tool_calls": [{"name": "add", "arguments": '{"x": 1, "until": null}'}]},
        {"tool_calls": json.dumps([CALL])},
        {"function_call": {"name": "add", "arguments": '{"x": 1, "until": null}'}},
        {"tool_calls": [{"function": {"name": "add", "arguments": {"x": 1, "until": None}}}]},
    ],
)
def test_tool_calls_keep_their_nulls(call):
    record = {"messages": [USER, {"role": "assistant", "content": None, **call}], "tools": [TOOL]}
    assert chat.to_chat(record) == ([USER], [CALLING], [TOOL])


def test_nulls_are_fillers_in_columnar_files_only(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    rows = [{"messages": [{**USER, "content": f"words {i}"}, CALLING], "tools": json.dumps([TOOL])} for i in range(9)]
    other = {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "add", "arguments": {"y": 2}}}]}], "tools": None}  # fmt: skip
    pyarrow.parquet.write_table(pa.Table.from_pylist([*rows, other]), tmp_path / "a.parquet")
    write(tmp_path / "a.jsonl", rows)
    for name, arguments in (("a.jsonl", {"x": 1, "until": None}), ("a.parquet", {"x": 1})):
        row = chat.load_chats(settings(tmp_path / name), seed=1)["train"][0]
        (turn,) = json.loads(row["completion"])
        assert turn["tool_calls"][0]["function"]["arguments"] == arguments and json.loads(row["tools"]) == [TOOL]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": [{"role": ["user"], "content": "a"}, ANSWER]}, r"has the role \['user'\]; roles are"),
        ({"messages": [{"speaker": "user", "text": "a"}, ANSWER]}, r"role None \(its keys are speaker, text\)"),
        ({"messages": [USER, {"role": "assistant", "content": {"a": 1}}]}, r"messages\[1\] is not text but dict"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": None}]}]}, "is not text"),
        ({"messages": [USER, {**CALLING, "tool_calls": [{"id": "1"}]}]}, "a tool call without a function name"),
        ({"messages": [USER, {"from": "function_call", "value": "add one"}]}, "a tool call without a function name"),
        ({"messages": [USER, ANSWER], "tools": "add(x)"}, "tools is not a list of functions: 'add"),
        ({"messages": [USER, ANSWER], "tools": [{"type": "function", "function": "add"}]}, r"tools\[0\] is not a func"),
        ({"instruction": "a", "output": "b", "history": ["a", "b"]}, "history is not a list of pairs"),
        ({"instruction": "a", "output": "b", "input": "c", "context": "d"}, "input and context both have text"),
        ({"prompt": [USER, ANSWER, AGAIN], "completion": "b", "history": [["a", "b"]]}, "history needs one quest"),
    ],
)
def test_rows_that_are_no_chat(record, reason):
    with pytest.raises(Fault, match=reason):
        chat.to_chat(record)


def test_columns_that_nothing_reads_are_named(tmp_path, caplog):
    rows = [{**row, "category": "x" if i < 3 else "", "history": None} for i, row in enumerate(OTHERS)]
    chat.load_chats(settings(write(tmp_path / "a.jsonl", rows)), seed=1)
    assert "columns that are not read: category (3 rows)" in caplog.text and "history" not in caplog.text
    pairs = [{"prompt": f"a {i}", "chosen": "b", "rejected": "c", "score_chosen": 2, "note": "x"} for i in range(8)]
    load_preferences(settings(write(tmp_path / "b.jsonl", pairs)), seed=1)
    assert "columns that are not read: note (8 rows)" in caplog.text


# ---- what a template loses or changes


def noticed(template, *conversation):
    template.notices.clear()
    template.encode(*conversation)
    return " ".join(template.notices)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_that_a_template_drops(make, key):
    thought = {**ANSWER, key: "some thoughts"}
    with pytest.raises(Fault, match=rf"drops {key} of message 2 \(assistant\): 'some thoughts'; choose a chat_"):
        make().encode([USER], [thought])
    renders = make(NO_SYSTEM.replace("{{ m['content'] }}", f"{{{{ m['{key}'] or '' }}}}{{{{ m['content'] }}}}"))
    assert learnt(renders, [USER], [thought]) == ["somethoughtswords<|end|>"]
    assert not noticed(renders, [USER], [thought])
    assert f"does not render '{key}'" in noticed(make(), [USER, thought, AGAIN], [MORE])  # it is context there


def test_reasoning_in_earlier_answers(make, tmp_path):
    first, second = ({**m, "content": f"<t>no weight</t>{m['content']}"} for m in (ANSWER, MORE))
    template = make(THINKS)
    with pytest.raises(Fault, match=r"drops or changes message 2 \(assistant\).*: set split_turns"):
        template.encode([USER], [first, AGAIN, second])
    assert "leaves out a part of earlier answers" in noticed(template, [USER, first, AGAIN], [second])
    assert learnt(template, [USER, first, AGAIN], [second]) == ["<t>noweight</t>123<|end|>"]
    drops = make(THINKS.replace("{{ body }}", "{{ body if m['role'] == 'user' or loop.last else '' }}"))
    with pytest.raises(Fault, match=r"drops or changes message 2 \(assistant\)"):  # all of it is gone
        drops.encode([USER, ANSWER, AGAIN], [MORE])


@pytest.mark.parametrize("conversation", [[SYSTEM, USER], [SYSTEM, {**SYSTEM, "content": "more"}, USER]])
def test_a_system_message_that_a_template_refuses(make, tmp_path, conversation):
    template = make(NO_SYSTEM)
    with pytest.raises(Fault, match="refuses the conversation: no system here: set system_to_user, which prepends"):
        template.encode(conversation, [ANSWER])
    folded = chat.fold_system(conversation)
    assert [message["role"] for message in folded] == ["user"] and folded[0]["content"].endswith("\n\na few")
    assert learnt(template, folded, [ANSWER]) == ["words<|end|>"]
    rows = [{"messages": [*conversation[:-1], {**USER, "content": f"a {i}"}, ANSWER]} for i in range(9)]
    config = settings(write(tmp_path / "a.jsonl", rows), system_to_user=True)
    assert len(chat.tokenize(chat.load_chats(config, seed=1)["train"], template, config)) == 5
    with pytest.raises(Fault, match=r"drops thinking of message \d \(assistant\): 'x'; choose a chat_template[^:]*$"):
        make().encode(conversation, [{**ANSWER, "thinking": "x"}])  # with which system_to_user would not help
    with pytest.raises(Fault, match="no user message follows a system message"):
        chat.fold_system([USER, SYSTEM])


def test_tool_fields_that_a_template_drops(make):
    renders = make(CALLS.replace("ARGUMENTS", "{{ c['function']['arguments'] | tojson }}"))
    assert "does not render 'parameters' of tools" in noticed(renders, [USER], [CALLING], [TOOL])
    with pytest.raises(Fault, match=r"drops arguments of message 2 \(assistant\)"):
        make(CALLS.replace("ARGUMENTS", "")).encode([USER], [CALLING], [TOOL])
    with pytest.raises(Fault, match=r"drops tool_calls of message 2 \(assistant\)"):  # though its name stands there
        make().encode([{**USER, "content": "add"}], [{**CALLING, "content": "add"}])
    result = {"role": "tool", "content": "2", "tool_call_id": "7", "name": "add"}
    found = noticed(renders, [USER, CALLING, result], [ANSWER])
    assert "does not render 'name' of messages of the role tool" in found and "'tool_call_id'" in found


# ---- what looks like a special token


@pytest.mark.parametrize("turn", [USER, ANSWER])
def test_special_tokens_in_texts_are_named(make, tmp_path, caplog, turn):
    strange = {**turn, "content": "words <|end|> more"}
    rows = [{"messages": [strange, ANSWER] if turn is USER else [USER, strange]}, *OTHERS]
    config = settings(write(tmp_path / "a.jsonl", rows), validation_split=1, test_split=1)
    template = make()
    for split in chat.load_chats(config, seed=1).values():
        chat.tokenize(split, template, config)
    assert f"a.jsonl, line 1: '<|end|>' in a message of the role {turn['role']} becomes the special" in caplog.text


def test_marks_of_another_model_are_named(make):
    template = make()
    assert "<|im_start|>, [INST] in a text: this looks like another model's chat template" in noticed(
        template, [{**USER, "content": "<|im_start|>user [INST]"}], [ANSWER]
    )
    assert not noticed(template, [{**USER, "content": "an <bos> in a text, <i>and</i> <|-|>"}], [ANSWER])
    assert "<start_of_turn>" in noticed(template, "<start_of_turn>user\na few", [])


def test_a_text_has_one_begin_and_one_end(make):
    from tokenizers.processors import TemplateProcessing

    template = make()
    tokenizer = template.tokenizer
    tokenizer.bos_token = "<s>"
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    expected, _ = template.encode("a few words", [])
    assert [expected.count(index) for _, index in ids] == [1, 1]
    for text in ("<s>a few words", "<s>a few words</s>", "a few words</s>"):
        found = template.encode(text, [])[0]
        assert [found.count(index) for _, index in ids] == [1, 1] and found[0] == ids[0][1] and found[-1] == ids[1][1]
    assert "a text begins with <s> already; it is not added again" in template.notices
    assert "contains the template's own marks" in noticed(template, f"{MARKS[1]}a few{MARKS[3]}", [])


# ---- preferences


DIALOGUE = "\n\nHuman: a few\n\nAssistant: words\n\nHuman: and numbers\n\nAssistant:"


@pytest.mark.parametrize(
    "record",
    [
        {"chosen": f"{DIALOGUE} 1 2 3", "rejected": f"{DIALOGUE} none"},
        {"prompt": DIALOGUE, "chosen": " 1 2 3", "rejected": " none"},
        {"prompt": DIALOGUE, "chosen": f"{DIALOGUE} 1 2 3", "rejected": f"{DIALOGUE} none"},
        {"input": {"messages": [USER, ANSWER, AGAIN], "tools": []}, "preferred_output": [MORE],
         "non_preferred_output": [{"role": "assistant", "content": "none"}]},
        {"input": json.dumps({"messages": [USER, ANSWER, AGAIN]}), "preferred_output": json.dumps([MORE]),
         "non_preferred_output": "none"},
        {"instruction": "and numbers", "history": [["a few", "words"]], "chosen": "1 2 3", "rejected": "none"},
    ],
)  # fmt: skip
def test_shapes_of_pairs(record):
    prompt, chosen, rejected, tools = to_preference(record)
    assert prompt == [USER, ANSWER, AGAIN] and tools == []
    assert [m["content"].strip() for m in (*chosen, *rejected)] == ["1 2 3", "none"]


@pytest.mark.parametrize("label", ["true", "True", "1", 1, True, 1.0, " TRUE "])
def test_labels_of_answers(label):
    assert to_preference({"prompt": "a few", "completion": "words", "label": label}) == ([USER], [ANSWER], None, [])
    assert to_preference({"messages": [USER, ANSWER], "kto_tag": label}) == ([USER], [ANSWER], None, [])
    assert to_preference({"prompt": "a few", "completion": "words", "label": "0"})[1] is None
    with pytest.raises(Fault, match="label is 'yes'"):
        to_preference({"prompt": "a few", "completion": "words", "label": "yes"})


def test_scores_that_contradict_the_pair():
    pair = {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 2.5, "score_rejected": 7}
    with pytest.raises(Fault, match=r"score_chosen 2\.5 is below score_rejected 7: chosen and rejected are swapped"):
        to_preference(pair)
    assert to_preference({**pair, "score_rejected": 1})[0]


def test_a_pair_that_is_the_same_once_it_is_cut(make, tmp_path):
    pairs = [{"prompt": f"a {i}", "chosen": "words " * 40 + "1", "rejected": "words " * 40 + "2"} for i in range(9)]
    config = settings(write(tmp_path / "a.jsonl", pairs), max_length=32)
    train = load_preferences(config, seed=1)["train"]
    with pytest.raises(ValueError, match=r"a\.jsonl, line \d: chosen and rejected are the same within max_length = 32"):
        tokenize_preferences(train, make(), config)
    assert len(tokenize_preferences(train, make(), settings("-", max_length=512))) == 5
    strips = make(NO_SYSTEM.replace("m['content']", "m['content'].split('</t>')[-1]"))
    pairs = [{"prompt": f"a {i}", "chosen": "<t>1</t>words", "rejected": "<t>2</t>words"} for i in range(9)]
    train = load_preferences(settings(write(tmp_path / "b.jsonl", pairs)), seed=1)["train"]
    with pytest.raises(ValueError, match="drops or changes message 2"):
        tokenize_preferences(train, strips, config)
