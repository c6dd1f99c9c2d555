"""The models that learn from preferences: one that writes, and one that gives rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hftrain.models import load
from hftrain.tasks import chat
from hftrain.train.trials import chunk_loss

if TYPE_CHECKING:
    from hftrain.tasks.chat.config import ChatModelConfig
    from hftrain.tasks.preference.config import RewardConfig


def load_policy(config: ChatModelConfig, template: chat.Template) -> Any:
    """The language model that `config` names, fitted to the template, with adapters if asked for, and with a head that
    can compute log-probabilities in chunks (`chunked_loss`)."""
    model = load.load_model(config, AutoModelForCausalLM)
    chat.fit_model(model, template, config.max_length)
    model = load.add_adapters(model, config, "CAUSAL_LM", new_tokens=template.new_ids)
    if getattr(config, "chunked_loss", False):
        chunk_loss(model)
    return model


def load_reward_model(config: RewardConfig, template: chat.Template) -> Any:
    """As `load_policy`, with a head of one label in place of the vocabulary: its logit is the reward."""
    model = load.load_model(config, AutoModelForSequenceClassification, settings={"num_labels": 1})
    chat.fit_model(model, template, config.max_length)
    return load.add_adapters(model, config, "SEQ_CLS", new_tokens=template.new_ids)
