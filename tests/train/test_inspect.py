"""What the loop will see, of every kind of recipe, and what is a breach."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    T5Config,
    T5ForConditionalGeneration,
)

from hftrain.cli import main as command_line
from hftrain.cli.inspect import Limits, breaches, shown
from hftrain.config import TrainConfig
from hftrain.data.examples import Examples
from hftrain.data.packing import Packed, pack
from hftrain.data.plan import Plan, steps
from hftrain.losses import causal_language_model
from hftrain.text import collate_pairs
from hftrain.text.causal import causal_lengths, collate_causal
from hftrain.train import inspect
from hftrain.train.loop import fit, start
from tests import tiny
from tests.tiny import chat_folder, chat_tokenizer

CLASSES = {"id2label": {0: "calm", 1: "loud"}}


def made(kind, **changes):
    return tiny.model(kind, vocab_size=400, **changes)


def make_view(examples, collate, model, *, config=None, processor=None):
    if not isinstance(examples, Examples):
        examples = Examples(examples, causal_lengths(examples)) if "input_ids" in examples[0] else Examples.of(examples)
    plan = Plan(examples.lengths, seed=1, global_batch_size=4)
    return inspect.View(examples, collate, plan, config or TrainConfig(), model, processor or chat_tokenizer())


def causal(rows, **options):
    model = made("LlamaForCausalLM", eos_token_id=2)
    return make_view(rows, lambda examples: collate_causal(examples, pad_token_id=0), model, **options)


def prompt_and_answer(answer, length=6):
    return {"input_ids": [*range(10, 10 + length), *answer], "labels": [-100] * length + answer}


def test_numbers_of_a_language_model():
    rows = [prompt_and_answer([50, 51, 2]), prompt_and_answer([60, 61, 2], 3), prompt_and_answer([60, 61, 2], 3)]
    rows.append({"input_ids": [7, 8, 9, 10], "labels": [-100] * 4})
    view = causal(rows)
    numbers = inspect.measure(view, inspect.sample(view, 100))
    assert numbers == {
        "examples": 4, "examples looked at": 4, "tokens, median": 6.0, "tokens, longest": 9,
        "padding share": pytest.approx(1 - 25 / 36), "nothing learnt": 0.25, "tokens learnt": pytest.approx(9 / 25),
        "end learnt": 0.75, "duplicates": 0.25,
    }  # fmt: skip
    assert len(inspect.sample(view, 2)) == 2


def test_numbers_of_packs_and_of_what_was_cut():
    rows = [prompt_and_answer([50, 2], n) for n in (2, 3, 4)]
    view = causal(Packed(Examples(rows, [4, 5, 6], counts={"truncated": 1}), pack([4, 5, 6], 10)))
    numbers = inspect.measure(view, inspect.sample(view, 9))
    assert numbers["truncated share"] == 0.5 and numbers["tokens learnt"] == pytest.approx(6 / 15)


@pytest.mark.parametrize(
    ("numbers", "counts", "breach"),
    [
        ({"truncated share": 0.06}, {}, "truncated share 6.0% is over max_truncated = 5.0%"),
        ({"nothing learnt": 0.01}, {}, "nothing learnt 1.0% is over max_nothing_learnt = 0.0%"),
        ({"padding share": 0.6}, {}, "padding share 60.0% is over max_padding = 50.0%"),
        ({"duplicates": 0.2}, {}, "duplicates 20.0% is over max_duplicates = 10.0%"),
        ({"tokens learnt": 0.0}, {}, "tokens learnt 0.0% is not over min_tokens_learnt = 0.0%"),
        ({"tokens learnt": 0.4, "end learnt": 0.0}, {}, "generation would not stop"),
        ({}, {"leaked": 3}, "3 rows leaked, max_leaked = 0"),
        ({}, {"refused": 2}, "2 rows refused, max_refused = 0"),
        ({"tokens learnt": 1.0, "end learnt": 0.0, "truncated share": 0.05, "padding share": 0.5}, {}, None),
    ],
)
def test_breaches(numbers, counts, breach):
    found = breaches(numbers, Limits(), **counts)
    assert found == [] if breach is None else len(found) == 1 and breach in found[0]


def test_learnt_tokens_are_marked():
    tokenizer = chat_tokenizer()
    ids = tokenizer("<|user|>a few<|assistant|>words<|end|>", add_special_tokens=False, split_special_tokens=False)
    ids = ids["input_ids"]
    answer = ids.index(tokenizer.convert_tokens_to_ids("<|assistant|>")) + 1
    view = causal([{"input_ids": ids, "labels": [-100] * answer + ids[answer:]}], processor=tokenizer)
    (example,) = inspect.sample(view, 1)
    assert example.kind == "next" and example.learnt == len(ids) - answer
    (line,) = shown(example, view, ("[", "]"))
    assert line.replace(" ", "") == "<|user|>afew<|assistant|>[words<|end|>]"


def test_other_kinds_of_labels():
    tokenizer = chat_tokenizer()
    ids = tokenizer("some words", add_special_tokens=False)["input_ids"]
    mask, hidden = [1] * len(ids), [-100] * (len(ids) - 1)

    def one(model, **columns):
        batch = {name: torch.tensor([value]) for name, value in columns.items()}
        view = make_view([{"input_ids": ids}], lambda examples: batch, model)
        (example,) = inspect.sample(view, 1)
        return example.kind, list(shown(example, view, ("[", "]"))), inspect.measure(view, [example])

    kind, lines, numbers = one(
        made("BertForMaskedLM"),
        input_ids=[3, *ids[1:]],
        attention_mask=mask,
        labels=[ids[0], *hidden],
    )
    assert (
        kind == "masked" and lines[0].startswith(f"<unk>[{tokenizer.decode(ids[:1])}]") and "end learnt" not in numbers
    )
    kind, lines, _ = one(
        made("BertForTokenClassification", **CLASSES),
        input_ids=ids,
        attention_mask=mask,
        labels=[1, *hidden],
    )
    assert kind == "tags" and "[loud]" in lines[0]
    kind, lines, numbers = one(
        made("BertForSequenceClassification", **CLASSES),
        input_ids=ids,
        attention_mask=mask,
        labels=1,
    )
    assert kind == "whole" and lines[1] == "label: [loud]" and "tokens learnt" not in numbers
    spans = made("BertForQuestionAnswering")
    kind, lines, _ = one(spans, input_ids=ids, attention_mask=mask, labels=[[0, 1]])
    assert kind == "whole" and "[0, 1]" in lines[1]
    reward = made("BertForSequenceClassification", num_labels=1)
    assert one(reward, input_ids=ids, attention_mask=mask, labels=[*hidden, ids[-1]])[0] == "next"
    t5 = T5ForConditionalGeneration(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=400))
    view = make_view(
        [{"input_ids": ids, "labels": [*ids[:1], 1]}],
        lambda examples: collate_pairs(examples, pad_token_id=0, decoder_start_token_id=0),
        t5,
    )
    (example,) = inspect.sample(view, 1)
    assert example.kind == "target" and example.labels == [ids[0], 1]
    assert inspect.measure(view, [example])["end learnt"] == 1


def test_fit_hands_over_and_writes_nothing(tmp_path):
    config = TrainConfig(output_dir=str(tmp_path / "out"), max_steps=2, num_train_epochs=None)
    rows = [prompt_and_answer([50, 2])] * 4
    view = causal(rows)
    with inspect.showing_examples():
        accelerator = start(config)
        with pytest.raises(inspect.Seen) as seen:
            fit(
                accelerator, view.model, rows, config, collate=view.collate, loss=causal_language_model(),
                processor=view.processor,
            )  # fmt: skip
    assert seen.value.view.examples.items is rows and not (tmp_path / "out").exists() and not inspect.inspecting()


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspected")
    chat_folder(folder / "base")
    rows = [{"prompt": f"some words {i}", "completion": f"numbers {i}"} for i in range(40)]
    (folder / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    return folder


def test_the_command(chats, capsys):
    recipe = ["--model_name_or_path", str(chats / "base"), "--train_file", str(chats / "good.jsonl"), "--max_length"]
    recipe += ["100"]
    assert command_line(["inspect", "chat", "--samples", "1", "--", *recipe, "--output_dir", str(chats / "out")]) == 0
    said = capsys.readouterr().out
    assert "⟦numbers" in said.replace("⟦ ", "⟦") and "are read as prompt_completion" in said and "BREACH" not in said
    assert "end learnt           100.0%" in said and "rows refused         0" in said and not (chats / "out").exists()
    recipe += ["--test_file", str(chats / "test.jsonl"), "--validation_split", "0.05"]
    assert command_line(["inspect", "chat", "--samples", "0", "--", *recipe]) == 1
    said = capsys.readouterr().out
    assert "BREACH: 3 rows leaked, max_leaked = 0" in said and "leak: 3 of 3 test rows are in the training" in said


@pytest.mark.parametrize(("times", "mark", "share"), [(1, "@2", 0), (1, "@2.5", 0), (2, "", 0.5), (2, "@2", 0.5)])
def test_a_row_that_a_weight_repeats_is_no_duplicate(times, mark, share, chats, capsys):
    rows = (chats / "good.jsonl").read_text().splitlines(keepends=True)
    (chats / "some.jsonl").write_text("".join(row * times for row in rows[:24]))
    recipe = ["--model_name_or_path", str(chats / "base"), "--train_file", f"{chats / 'some.jsonl'}{mark}"]
    held_out = ["--validation_file", str(chats / "test.jsonl"), "--test_file", str(chats / "test.jsonl")]
    limits = ["--samples", "0", "--look", "200", "--max_duplicates", "0.4", "--max_leaked", "99"]
    assert command_line(["inspect", "chat", *limits, "--", *recipe, *held_out, "--max_length", "100"]) == (share > 0.4)
    assert f"duplicates           {share:.1%}\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["translate"])
def test_any_recipe(recipe, tmp_path):
    command = [sys.executable, "-m", "hftrain.cli", "inspect", recipe, "--look", "50"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "end learnt           100.0%" in done.stdout and list(Path(tmp_path).iterdir()) == []


def test_the_noise_shown_is_that_of_the_step_that_sees_the_example_first():
    rows = [{"input_ids": [number] * 6, "labels": [number] * 6} for number in range(20)]

    def noise(row):
        return {name: [*values[:-1], int(np.random.randint(300))] for name, values in row.items()}

    view = causal(rows)._replace(augment=noise)
    seen = {example.number: example.ids for example in inspect.sample(view, 20)}
    cut = {"process": 0, "processes": 1, "micro_batch_size": 2, "micro_batch_tokens": None, "num_workers": 0}
    for step, indices, micros in steps(rows, view.collate, view.plan, start=0, stop=5, augment=noise, **cut):
        for micro in micros:
            for index, ids in zip(micro.indices, micro.batch["input_ids"].tolist(), strict=True):
                assert seen[int(index)] == ids, step
        assert view.plan.first_steps(indices.tolist()) == [step] * len(indices)
