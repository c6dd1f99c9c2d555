"""Chats as examples of a causal language model, the model made ready for them, its answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator

from hftrain.chat.formats import Chat, Message
from hftrain.chat.template import Template
from hftrain.data.readers import Fault
from hftrain.distributed import whole_while_used
from hftrain.evaluation import predict
from hftrain.losses import IGNORE, Batch
from hftrain.text import check_fit, pad, tokenized
from hftrain.text.examples import TOKENS, of_split

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
REFUSED = "refused: "


def tokenize(rows: Dataset, template: Template, config: Any) -> Dataset:
    """Rows as `load_chats` gives them as examples {"input_ids", "labels"}; labels are -100 at what is not learnt.

    `config` is a `SupervisedConfig` and a `DataConfig`. Conversations of more than `max_length` tokens are cut there.
    Counted in the attribute `counts`: "truncated".

    Raises:
        ValueError: more than `max_bad_rows` rows cannot be learnt from (`Template.encode`) or are cut before it.
    """
    max_length, split_turns = config.max_length, config.split_turns

    def convert(batch: dict[str, list[str]]) -> tuple[dict[str, list[Any]], dict[str, int]]:
        columns: dict[str, list[Any]] = {"input_ids": [], "labels": []}
        counts: dict[str, int] = {}
        for row in zip(batch["prompt"], batch["completion"], batch["tools"], strict=True):
            try:
                encoded = [template.encode(*chat) for chat in answers_of(*map(json.loads, row), split=split_turns)]
                if any(set(labels[:max_length]) == {IGNORE} for _, labels in encoded):
                    raise Fault(f"it is cut before the answer, at max_length = {max_length} tokens")
            except Fault as fault:
                refusal = f"{REFUSED}{row[0]:.80}: {fault}"
                counts[refusal] = counts.get(refusal, 0) + 1
                continue
            for ids, labels in encoded:
                columns["input_ids"].append(ids[:max_length])
                columns["labels"].append(labels[:max_length])
                counts["truncated"] = counts.get("truncated", 0) + (len(ids) > max_length)
        return columns, counts

    schema = pa.schema([("input_ids", TOKENS), ("labels", TOKENS)])
    arguments = ["chat", max_length, split_turns]
    examples = tokenized(rows, template.tokenizer, convert, schema=schema, arguments=arguments)
    check_refused(rows, examples, config.max_bad_rows)
    if cut := examples.counts["truncated"]:
        said = (of_split(rows), cut, len(examples), 100 * cut / len(examples))
        logger.warning("%s%d of %d conversations (%.1f %%) are longer than max_length and are cut", *said)
    return examples


def check_refused(rows: Dataset, examples: Dataset, max_bad_rows: int) -> None:
    """Names what `convert` has refused, counted in `examples.counts` under REFUSED and why; the attribute `refused` of
    the examples is their number.

    Raises:
        ValueError: with those left out when the rows were read (`rows.bad`), they are more than `max_bad_rows`.
    """
    refused = {said.removeprefix(REFUSED): n for said, n in examples.counts.items() if said.startswith(REFUSED)}
    examples.refused = sum(refused.values())
    if examples.refused and examples.refused + len(getattr(rows, "bad", ())) > max_bad_rows:
        shown = "\n".join(f"  {said}" for said in list(refused)[:10])
        raise ValueError(
            f"{examples.refused} of {len(rows)} rows cannot be learnt from, max_bad_rows is {max_bad_rows}; the "
            f"first:\n{shown}\nMend them, or max_length or chat_template where they are the reason, or raise "
            "max_bad_rows to leave that many out."
        )
    for said in refused:
        logger.warning("left out: %s", said, extra={"refused": refused[said]})


def answers_of(
    prompt: list[Message] | str, completion: list[Message], tools: list[Any], *, split: bool
) -> Iterator[tuple[list[Message] | str, list[Message], list[Any]]]:
    """The conversation as one chat, or as one for each of its answers, in which that answer alone is learnt."""
    if not split or isinstance(prompt, str):
        yield prompt, completion, tools
        return
    for number, message in enumerate(completion):
        if message["role"] == "assistant":
            yield prompt + completion[:number], [message], tools


def fit_model(model: Any, template: Template, max_length: int) -> None:
    """Gives the model what the template needs: embeddings of new tokens, ends and padding of what it generates.

    Raises:
        ValueError: the tokenizer is another model's, or `max_length` is more than the model has positions for.
    """
    tokenizer, rows = template.tokenizer, model.get_input_embeddings().num_embeddings
    if all(index in template.new_ids for index in range(rows, len(tokenizer))) and len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer))
    check_fit(model, tokenizer, max_length=max_length)
    model.config.pad_token_id = tokenizer.pad_token_id
    generation = getattr(model, "generation_config", None)
    if generation is not None:  # a reward model does not write
        ends = generation.eos_token_id or []
        generation.eos_token_id = sorted({template.end_id, *([ends] if isinstance(ends, int) else ends)})
        generation.pad_token_id = tokenizer.pad_token_id


def answer(
    accelerator: Accelerator,
    model: Any,
    *,
    template: Template,
    chats: Sequence[Chat],
    batch_size: int,
    max_new_tokens: int,
) -> list[str]:
    """The model's greedy answer to the prompt of each chat, in order, on every process; [] if there is none. The model
    may be one that `fit` has not prepared yet."""
    if not chats:
        return []
    module = accelerator.unwrap_model(model)
    training = module.training
    if next(module.parameters()).device != accelerator.device:
        module.to(accelerator.device)
    ids = [template.prompt_ids(chat.prompt, chat.tools) for chat in chats]
    lengths = np.array([[len(tokens)] for tokens in ids])

    def collate(examples: list[list[int]]) -> Batch:
        ids = pad([tokens[::-1] for tokens in examples], template.tokenizer.pad_token_id).flip(1)
        return {"input_ids": ids, "attention_mask": pad([[1] * len(tokens) for tokens in examples], 0).flip(1)}

    def generate(batch: Batch) -> list[str]:
        found = module.generate(**batch, do_sample=False, max_new_tokens=max_new_tokens)
        new = found[:, batch["input_ids"].shape[1] :]
        return [text.strip() for text in template.tokenizer.batch_decode(new, skip_special_tokens=True)]

    module.eval()
    with whole_while_used(module) if module is model else nullcontext(), torch.no_grad():
        answers = predict(accelerator, ids, lengths, batch_size, collate=collate, generate=generate)
    module.train(training)
    return answers
