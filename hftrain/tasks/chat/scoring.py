"""The answers of a language model to chats."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import nn

from hftrain.data.examples import Examples
from hftrain.distributed import gathered, is_away, place
from hftrain.losses import Batch
from hftrain.tasks.chat.rows import Chat
from hftrain.tasks.chat.template import Template
from hftrain.text import attention_mask, pad
from hftrain.train.evaluation import predict

if TYPE_CHECKING:
    from hftrain.tasks.chat.config import ChatModelConfig


def answer(
    accelerator: Accelerator, model: nn.Module, template: Template, chats: Sequence[Chat], config: ChatModelConfig
) -> list[str]:
    """The greedy answer to the prompt of each chat, in order, on every process; [] if there are no chats. The model
    may be one that `fit` has not prepared yet. `config` is a `ChatConfig` and a `TrainConfig`."""
    if not chats:
        return []
    module = accelerator.unwrap_model(model)
    training = module.training
    place(accelerator, module)
    # transformers itself synchronizes models under ZeRO-3 and FSDP2: all processes go on until the last is done
    together = {"synced_gpus": True} if is_away(module) else {}
    ids = [template.prompt_ids(chat.prompt, chat.tools) for chat in chats]
    prompts = Examples(ids, [len(tokens) for tokens in ids])

    def collate(examples: list[list[int]]) -> Batch:
        ids = pad(examples, template.tokenizer.pad_token_id, side="left")
        return {"input_ids": ids, "attention_mask": attention_mask(examples, side="left")}

    def generate(batch: Batch) -> list[str]:
        ids = module.generate(**batch, do_sample=False, max_new_tokens=config.max_new_tokens, **together)
        new = ids[:, batch["input_ids"].shape[1] :]
        return [text.strip() for text in template.tokenizer.batch_decode(new, skip_special_tokens=True)]

    module.eval()
    with gathered(module) if module is model else nullcontext(), torch.no_grad():
        answers = predict(accelerator, prompts, config.eval_batch_size, collate=collate, generate=generate)
    module.train(training)
    return answers
