"""A reward model: one number for a conversation, learnt from people's preferences between two answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import nn

from hftrain.losses import Batch, Loss
from hftrain.tasks.preference.losses import bradley_terry, count_examples
from hftrain.train.evaluation import predict

if TYPE_CHECKING:
    from hftrain.tasks.preference.config import RewardConfig


def conversation_rewards(model: nn.Module, batch: Batch) -> torch.Tensor:
    """(B, 2) fp32: R of each example's two conversations, from a model for sequence classification with one label."""
    ids, mask = batch["input_ids"].flatten(0, 1), batch["attention_mask"].flatten(0, 1)
    return model(input_ids=ids, attention_mask=mask).logits.float().view(-1, 2)


def reward_loss(center_rewards_coefficient: float = 0.0) -> Loss:
    """`bradley_terry` of the pairs."""

    def summed(model: nn.Module, batch: Batch) -> torch.Tensor:
        return bradley_terry(*conversation_rewards(model, batch).unbind(1), center=center_rewards_coefficient)

    return Loss(summed, count_examples)


def evaluate_rewards(
    accelerator: Accelerator,
    model: nn.Module,
    examples: Sequence[Any],
    batch_size: int,
    collate: Callable[[list[Any]], Batch],
) -> dict[str, float]:
    """loss (without centering); accuracy, the share of pairs whose chosen answer has the higher reward; means
    reward_chosen and reward_rejected, and their difference reward_margin."""

    def score(batch: Batch) -> list[list[float]]:
        return conversation_rewards(model, batch).tolist()

    rewards = predict(accelerator, examples, batch_size, collate=collate, generate=score, by_tokens=True)
    chosen, rejected = torch.tensor(rewards, dtype=torch.float64).unbind(1)
    return {
        "loss": float(bradley_terry(chosen, rejected)) / len(rewards),
        "accuracy": float((chosen > rejected).double().mean()),
        "reward_margin": float((chosen - rejected).mean()),
        "reward_chosen": float(chosen.mean()),
        "reward_rejected": float(rejected.mean()),
    }


def reward_usage(config: RewardConfig, row: Mapping[str, str]) -> str:
    """Python code that loads the trained model and computes the reward of a row's answer."""
    folder, adapter = config.hub_model_id or config.output_dir, config.use_peft
    name = "AutoPeftModelForSequenceClassification" if adapter else "AutoModelForSequenceClassification"
    prompt, chosen = json.loads(row["prompt"]), json.loads(row["chosen"])
    return f"""from {"peft" if adapter else "transformers"} import {name}
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({folder!r})
model = {name}.from_pretrained({folder!r}, num_labels=1)
messages = {json.dumps(prompt + chosen, ensure_ascii=False)}
inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
print(float(model(**inputs).logits))"""
