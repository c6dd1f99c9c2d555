"""Chats: formats, masks, refusals, noise, and the recipe from any row to a folder that anyone loads."""

import json
import math
import re

import datasets
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hftrain.config import ConfigError, parse
from hftrain.data.readers import Fault
from hftrain.losses import causal_language_model, count_next_labels
from hftrain.models.neftune import add_noise, lengths_of
from hftrain.tasks import chat
from hftrain.tasks.chat.template import CHATML
from hftrain.text.causal import collate_causal
from recipes import chat as recipe
from tests import ROOT
from tests.programs import launcher, run
from tests.tiny import TEMPLATE, chat_folder, chat_tokenizer

RECIPE = ROOT / "recipes" / "chat.py"
USER, ANSWER = {"role": "user", "content": "a few"}, {"role": "assistant", "content": "words"}
AGAIN, MORE = {"role": "user", "content": "and numbers"}, {"role": "assistant", "content": "1 2 3"}
SYSTEM = {"role": "system", "content": "no weight"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def template():
    return chat.Template(chat_tokenizer())


def jinja(tmp_path, text):
    file = tmp_path / "template.jinja"
    file.write_text(text)
    return str(file)


def learnt(template, *conversation):
    ids, labels = template.encode(*conversation)
    assert len(ids) == len(labels) and all(label in (-100, index) for index, label in zip(ids, labels, strict=True))
    decode = template.tokenizer.decode
    return "".join(decode([index]).strip() if label >= 0 else "·" for index, label in zip(ids, labels, strict=True))


# ---- masks


def test_the_assistants_tokens_and_the_ends_of_its_turns(template):
    assert learnt(template, [USER], [ANSWER]).lstrip("·") == "words<|end|>"
    both = learnt(template, [SYSTEM, USER], [ANSWER, AGAIN, MORE])
    assert [part for part in both.split("·") if part] == ["words<|end|>", "123<|end|>"]
    assert learnt(template, [USER, ANSWER, AGAIN], [MORE]).lstrip("·") == "123<|end|>"  # the prompt's is not
    assert template.tokenizer.decode(template.end_id) == "<|end|>"
    ids, _ = template.encode([USER], [ANSWER])
    prompt = template.prompt_ids([USER])
    assert ids[: len(prompt)] == prompt  # generation starts from what training had


@pytest.mark.parametrize("end", ["<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>"])
def test_a_templates_own_marks_say_the_same(tmp_path, end):
    with_marks = CHATML.replace("<|im_end|>{% endgeneration %}", end)
    without = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    marked, plain = (
        chat.Template(chat_tokenizer(), jinja(tmp_path, text), ["<|im_start|>", "<|im_end|>"])
        for text in (with_marks, without)
    )
    assert marked.marks and not plain.marks
    for conversation in (([SYSTEM, USER], [ANSWER, AGAIN, MORE]), ([USER, ANSWER, AGAIN], [MORE])):
        assert marked.encode(*conversation) == plain.encode(*conversation)
        assert "\n" not in learnt(plain, *conversation)  # the line break behind an end is not the assistant's


def test_plain_text_is_learnt_whole_with_an_end(template):
    ids, labels = template.encode("a plain text", [])
    assert ids == labels and ids[-1] == template.tokenizer.eos_token_id


def test_padding_that_is_the_end_token(template):
    tokenizer = template.tokenizer
    pad, tokenizer.pad_token = tokenizer.pad_token, "<|end|>"
    rows = [dict(zip(("input_ids", "labels"), template.encode([USER], [{**ANSWER, "content": text}]), strict=True))
            for text in ("a", "a few words, and some more numbers")]  # fmt: skip
    batch = collate_causal(rows, pad_token_id=tokenizer.pad_token_id)
    tokenizer.pad_token = pad
    assert int((batch["labels"] == template.end_id).sum()) == 2  # one end each, though the padding is the same token
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


THINKING = (
    "{% for message in messages %}<|{{ message['role'] }}|>{% if message['role'] == 'assistant' and not loop.last %}"
    "{{ message['content'].split('</t>')[-1] }}{% else %}{{ message['content'] }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DROPS = (
    "{% for m in messages %}{% if m['role'] != 'system' %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endif %}"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("text", "conversation", "reason"),
    [
        (DROPS, ([SYSTEM, USER], [ANSWER]), r"drops or changes message 1 \(system\): 'no weight'"),
        (
            THINKING,
            ([USER], [{**ANSWER, "content": "<t>no weight</t>words"}, AGAIN, MORE]),
            r"drops or changes message 2 \(assistant\)",
        ),
        (  # an empty thought is added to the last answer only, as some templates do
            THINKING.replace("{% else %}", "{% else %}{{ '<t></t>' if message['role'] == 'assistant' else '' }}"),
            ([USER], [ANSWER, AGAIN, MORE]),
            "renders message 2 differently when it is the last and when others follow .* set split_turns",
        ),
        (DROPS, ([USER], [{"role": "assistant", "content": "", "tool_calls": [CALL]}]), "drops .* 'add'"),
        (DROPS, ([USER], [ANSWER], [TOOL]), "the chat template drops the tool 'add'"),
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + DROPS,
            ([SYSTEM, USER], [ANSWER]),
            "the chat template refuses the conversation: no system here",
        ),
    ],
)
def test_templates_that_lose_something(tmp_path, text, conversation, reason):
    template = chat.Template(chat_tokenizer(), jinja(tmp_path, text))
    with pytest.raises(Fault, match=reason):
        template.encode(*conversation)


def test_split_turns_learn_each_answer_as_the_last(tmp_path):
    text = THINKING.replace("{% else %}", "{% else %}{{ '<t></t>' if message['role'] == 'assistant' else '' }}")
    template = chat.Template(chat_tokenizer(), jinja(tmp_path, text))
    config = recipe.ChatRecipeConfig(model_name_or_path="-", train_file="-", split_turns=True)
    examples = chat.tokenize(rows_of({"messages": [USER, ANSWER, AGAIN, MORE]}), template, config)
    said = [template.tokenizer.decode([i for i in row["labels"] if i >= 0]) for row in examples]
    assert said == ["<t></t>words<|end|>", "<t></t>1 2 3<|end|>"]


def test_templates_that_cannot_be(tmp_path):
    bare = chat_tokenizer()
    bare.chat_template = None
    with pytest.raises(
        ValueError, match="the tokenizer has no chat template \(base models have none\): set chat_templ"
    ):
        chat.Template(bare)
    with pytest.raises(ValueError, match="chat_template 'chatml2' is not a file; set chatml, or a Jinja file"):
        chat.Template(bare, "chatml2")
    endless = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(ValueError, match="cannot be trained on: no special token ends the assistant's turn"):
        chat.Template(bare, jinja(tmp_path, endless))


# ---- rows to examples


def rows_of(*records):
    columns = zip(*(chat.as_json(chat.to_chat)([record], [""]) for record in records), strict=True)
    return datasets.Dataset.from_dict(dict(zip(chat.Chat._fields, map(list, columns), strict=True)))


def test_rows_that_are_cut(template, caplog):
    long = {"prompt": "a few", "completion": "words " * 30}
    config = recipe.ChatRecipeConfig(model_name_or_path="-", train_file="-", max_length=20)
    examples = chat.tokenize(rows_of(long, {"prompt": "a", "completion": "few"}), template, config)
    assert [len(row["input_ids"]) == 20 for row in examples] == [True, False]
    assert "1 of 2 conversations (50.0 %) are longer than max_length and are truncated" in caplog.text
    early = rows_of({"prompt": "some more words " * 9, "completion": "no"}, long)
    with pytest.raises(
        ValueError, match=r"1 of 2 rows cannot .*\n  the rows, row 1: max_length = .* cuts it before the answer"
    ):
        chat.tokenize(early, template, config)
    config.max_bad_rows = 1
    assert len(chat.tokenize(early, template, config)) == 1 and "left out: " in caplog.text


def test_load_chats_names_formats_and_keeps_prompts_on_one_side(tmp_path, caplog):
    rows = [{"prompt": f"question {i // 2}", "completion": f"answer {i}"} for i in range(20)] + [{"prompt": "x"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"train_file": str(file), "model_name_or_path": "-", "validation_split": 4, "test_split": 4}
    with pytest.raises(ValueError, match="line 21: the columns 'prompt' fit no chat format"):
        chat.load_chats(recipe.ChatRecipeConfig(**settings), seed=1)
    splits = chat.load_chats(recipe.ChatRecipeConfig(**settings, max_bad_rows=1), seed=1)
    assert "rows with the columns prompt, completion are read as prompt_completion" in caplog.text
    assert {name: len(split) for name, split in splits.items()} == {"train": 12, "validation": 4, "test": 4}
    assert splits["test"].leaks.inputs == splits["validation"].leaks.inputs == 0 and len(splits["train"].bad) == 1


# ---- the model


def test_what_does_not_fit_is_named(tmp_path, template):
    model = AutoModelForCausalLM.from_pretrained(chat_folder(tmp_path))
    with pytest.raises(ValueError, match=r"max_length=600, but the model has positions for only 512 tokens"):
        chat.fit_model(model, template, 600)
    other = chat_tokenizer()
    other.add_tokens(["<|far|>"], special_tokens=True)
    with pytest.raises(ValueError, match=r"the tokenizer has .* but the model has only .* embeddings"):
        chat.fit_model(model, chat.Template(other), 64)
    grown = chat.Template(other, new_tokens=["<|far|>"])
    chat.fit_model(model, grown, 64)
    assert model.get_input_embeddings().num_embeddings == len(other) == grown.new_ids[0] + 1
    assert model.generation_config.eos_token_id == [grown.end_id]
    bare = chat_tokenizer()
    bare.pad_token = None
    assert chat.Template(bare).tokenizer.pad_token == bare.eos_token


# ---- NEFTune


def test_noise_is_scaled_by_the_length_of_the_sequence_that_a_token_stands_in():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    assert lengths_of(2, 4, mask).tolist() == [[3] * 4, [1] * 4]
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]])
    assert lengths_of(2, 5, None, positions).tolist() == [[3, 3, 3, 2, 2], [4, 4, 4, 4, 1]]
    assert lengths_of(1, 3).tolist() == [[3, 3, 3]]


@pytest.mark.parametrize("adapters", [False, True])
def test_noise_in_training_only(tmp_path, adapters):
    model = AutoModelForCausalLM.from_pretrained(chat_folder(tmp_path))
    if adapters:
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    rows = [{"input_ids": list(range(5, 5 + n))} for n in (4, 16)]
    batch = collate_causal(rows, pad_token_id=0)
    seen = []
    inner = model.get_base_model() if adapters else model
    plain = inner.get_input_embeddings()(batch["input_ids"])
    add_noise(model, 5.0)
    inner.get_input_embeddings().register_forward_hook(lambda module, arguments, output: seen.append(output))
    loss = causal_language_model().summed
    model.eval()
    loss(model, batch)
    assert torch.equal(seen[-1], plain)
    model.train()
    torch.manual_seed(3)
    first = loss(model, batch)
    noise = (seen[-1] - plain).detach()
    for row, length in enumerate((4, 16)):
        bound = 5 / math.sqrt(length * 32)
        assert 0.95 * bound < noise[row, :length].abs().max() <= bound * (1 + 1e-4)
        assert noise[row, :length].std() == pytest.approx(bound / math.sqrt(3), rel=0.15)  # of a uniform variable
    torch.manual_seed(3)
    assert torch.equal(loss(model, batch), first)
    assert not torch.equal(loss(model, batch), first)


# ---- the recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base model without a template, and rows."""
    folder = tmp_path_factory.mktemp("chat")
    base = chat_folder(folder / "base", scale=0.1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = None
    (base / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(base)
    rows = [{"instruction": f"some words {i}", "input": "", "output": f"numbers {i % 3}"} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def options(made, out, *more, template="chatml"):
    settings = {
        "model_name_or_path": made / "base", "train_file": made / "rows.jsonl", "output_dir": out, "max_length": 64,
        "max_new_tokens": 8, "logging_steps": 1, "chat_template": template,
    }  # fmt: skip
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))] + list(more)


def loss_on_test(config, model, tokenizer):
    """Of the rows that the recipe held out, with what was saved."""
    examples = chat.tokenize(chat.load_chats(config, seed=config.seed)["test"], chat.Template(tokenizer), config)
    batch = collate_causal(list(examples), pad_token_id=tokenizer.pad_token_id)
    with torch.no_grad():
        return float(causal_language_model().summed(model.eval(), batch)) / count_next_labels(batch)


def test_the_recipe_with_new_tokens_packing_noise_and_adapters(made, tmp_path):
    out = tmp_path / "out"
    argv = options(
        made, out, "--use_peft", "--packing", "--neftune_noise_alpha", "0.5", "--max_steps", "4", "--learning_rate",
        "2e-2", "--eval_on_start", "--global_batch_size", "4", "--num_samples", "2",
    )  # fmt: skip
    config = parse(recipe.ChatRecipeConfig, argv)
    results = recipe.main(config)
    history = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_loss"] for row in history if "eval_loss" in row]
    assert losses[-1] < losses[0] - 0.5 and results["test_perplexity"] == pytest.approx(math.exp(results["test_loss"]))
    model, tokenizer = peft.AutoPeftModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == CHATML and len(tokenizer) == model.get_input_embeddings().weight.shape[0]
    assert loss_on_test(config, model, tokenizer) == pytest.approx(results["test_loss"], rel=1e-5)
    saved = load_file(out / "adapter_model.safetensors")
    assert [tuple(saved[name].shape) for name in saved if "trainable_tokens" in name] == [(2, 32)] * 2
    card = (out / "README.md").read_text()
    assert "before" in card and "after" in card
    seen = json.loads((out / "inspection.json").read_text())
    assert seen["end learnt"] == 1 and 0 < seen["tokens learnt"] < 1 and "tokens learnt" in card


def test_a_model_learns_to_answer_and_to_stop(made, tmp_path):
    argv = options(
        made, tmp_path / "out", "--freeze", "layers.0", "--max_steps", "40", "--learning_rate", "1e-2", "--num_samples",
        "0", "--eval_steps", "0", "--save_steps", "0",
    )  # fmt: skip
    config = parse(recipe.ChatRecipeConfig, argv)
    results = recipe.main(config)
    before = load_file(made / "base" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    same = {name for name, weight in before.items() if torch.equal(after[name][: len(weight)], weight)}
    assert same == {name for name in before if "layers.0." in name}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loss_on_test(config, model, tokenizer) == pytest.approx(results["test_loss"], rel=1e-5)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "some words 4"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = tokenizer.decode(model.generate(**asked, max_new_tokens=12)[0, asked["input_ids"].shape[1] :])
    assert re.fullmatch(r"numbers \d<\|im_end\|>", answer)


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="needs a pretrained model: set model_name_or_path"):
        recipe.ChatRecipeConfig(train_file="x")
    with pytest.raises(ConfigError, match="adapters freeze all other weights already"):
        recipe.ChatRecipeConfig(train_file="x", model_name_or_path="y", use_peft=True, freeze=["layers.0"])


@pytest.mark.slow
def test_lora_under_zero3_saves_the_whole_adapter_of_one_process(made, tmp_path):
    more = [
        "--use_peft",
        "--max_steps",
        "4",
        "--global_batch_size",
        "8",
        "--learning_rate",
        "1e-2",
        "--num_samples",
        "2",
    ]
    more += ["--eval_steps", "0", "--save_steps", "0"]
    one, two = (options(made, tmp_path / name, *more, template=jinja(tmp_path, TEMPLATE)) for name in ("one", "two"))
    recipe.main(parse(recipe.ChatRecipeConfig, one))
    run(*launcher("--config_file", str(ROOT / "ds_configs" / "zero3.yaml")), RECIPE, *two)
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all(value.norm() > 0 for value in two.values())
    # Adam's first steps divide gradients near 0 by themselves, which makes their rounding visible
    assert all((two[name] - one[name]).norm() < 5e-5 * one[name].norm() for name in one)
