"""What the report of a chat model shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.losses import IGNORE
from hftrain.metrics.guesses import unigram_guess
from hftrain.metrics.intervals import Interval
from hftrain.metrics.perplexity import intervals, readings
from hftrain.report import Report
from hftrain.report.described import describe_split, evenly, share
from hftrain.tasks.chat.config import ChatRecipeConfig
from hftrain.tasks.chat.rows import Chat
from hftrain.train.inspect import inspecting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hftrain.data.examples import Examples
    from hftrain.data.rows import Rows
    from hftrain.tasks.chat.config import ChatModelConfig


def questions(rows: Rows, count: int) -> list[Chat]:
    """Up to `count` rows with a prompt, evenly spread (plain texts have none); [] while `hftrain inspect` runs."""
    if inspecting():
        return []
    asking = [i for i, prompt in enumerate(rows["prompt"]) if prompt.startswith("[{")]
    chosen = evenly(len(asking), count)
    return [chat_of(rows[asking[i]]) for i in chosen]


def chat_of(row: Mapping[str, str]) -> Chat:
    """The chat in a row of `load_chats`."""
    return Chat(**{name: json.loads(row[name]) for name in Chat._fields})


def samples(chats: Sequence[Chat], **answers: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a table: the last message of the prompt, the answers of each kind, and the answer in the data."""
    table = []
    for number, chat in enumerate(chats):
        reference = next(turn for turn in chat.completion if turn["role"] == "assistant")
        row = {"prompt": chat.prompt[-1]["content"]} | {kind: texts[number] for kind, texts in answers.items()}
        table.append(row | {"reference": reference["content"] or json.dumps(reference.get("tool_calls"))})
    return table


def judge(examples: Mapping[str, Any], vocabulary: int, interval: Interval | None) -> dict[str, Any]:
    """`baseline` and `intervals` for `publish`. The baseline guesses each learnt token by its frequency in the training
    rows; `interval` is that of the test loss."""
    train, test = examples["train"], examples["test"]
    return {
        "baseline": {f"test_{name}": value for name, value in unigram_guess(train, test, vocabulary).items()},
        "intervals": intervals(interval, readings, "test_"),
    }


def describe(rows: Rows, examples: Examples) -> dict[str, Any]:
    """The table of a split: its rows, how many were left out, leaked or truncated, its tokens."""
    items: Any = examples.items
    tokens = examples.lengths[:, 0]
    learnt = sum(int((np.asarray(labels) != IGNORE).sum()) for labels in items.with_format("numpy")["labels"])
    details = {
        "examples": len(examples),
        "tokens, mean": float(tokens.mean()),
        "tokens, longest": int(tokens.max()),
        "tokens learnt": f"{100 * learnt / tokens.sum():.1f} %",
        "cut at max_length": share(examples.counts["truncated"], len(examples)),
    }
    return describe_split(rows, details, inputs="prompts", refused=examples.counts["refused"])


def summarize(
    config: ChatRecipeConfig,
    rows: Mapping[str, Rows],
    examples: Mapping[str, Any],
    tested: tuple[float, Interval | None],
    answers: Sequence[Mapping[str, str]],
    tokenizer: PreTrainedTokenizerBase,
) -> Report:
    """What the report shows: the scores of the test rows, the answers before and after training, and the data.

    Args:
        tested: the loss of the test rows and its interval.
    """
    return Report(
        title="Chat",
        task="text-generation",
        metric="loss",
        scores=readings(tested[0]),
        usage=usage(config, rows["test"][0]),
        data={name: describe(split, examples[name]) for name, split in rows.items()},
        samples=answers,
        **judge(examples, len(tokenizer), tested[1]),
    )


def usage(config: ChatModelConfig, row: Mapping[str, str]) -> str:
    """Python code that loads the trained model and lets it answer the prompt of a row."""
    folder, prompt = config.hub_model_id or config.output_dir, json.loads(row["prompt"])
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": "Hello!"}]
    name, library = (
        ("AutoPeftModelForCausalLM", "peft") if config.use_peft else ("AutoModelForCausalLM", "transformers")
    )
    return f"""from {library} import {name}
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({folder!r})
model = {name}.from_pretrained({folder!r})
messages = {json.dumps(prompt, ensure_ascii=False)}
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens={config.max_new_tokens})[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))"""
