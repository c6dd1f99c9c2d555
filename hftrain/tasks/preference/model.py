"""The models that learn from preferences: one that writes, and one that gives rewards."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hftrain.models import load
from hftrain.tasks import chat


def load_policy(config: Any, template: chat.Template) -> Any:
    """The language model that `config`, a `ChatConfig` and a `FineTuneConfig`, names, fitted to the template, with
    adapters if asked for."""
    model = load.load_model(config, AutoModelForCausalLM)
    chat.fit_model(model, template, config.max_length)
    return load.add_adapters(model, config, "CAUSAL_LM", new_tokens=template.new_ids)


def load_reward_model(config: Any, template: chat.Template) -> Any:
    """As `load_policy`, with a head of one label in place of the vocabulary: its logit is the reward."""
    model = load.load_model(config, AutoModelForSequenceClassification, settings={"num_labels": 1})
    chat.fit_model(model, template, config.max_length)
    return load.add_adapters(model, config, "SEQ_CLS", new_tokens=template.new_ids)
