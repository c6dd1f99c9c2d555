"""The model that answers, and what it remembers: its windows, its search, and when it gives no answer."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerBase

from hftrain.models import load
from hftrain.models.fit import check_fit
from hftrain.models.saved import recall, save_remembered
from hftrain.tasks.answering.config import AnswerConfig, AnsweringConfig

SETTINGS = ("max_seq_length", "doc_stride", "max_answer_length", "n_best_size")


def load_answerer(config: AnswerConfig, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The model that `config` names with a head for answers, and, if asked for, adapters.

    Raises:
        ValueError: tokenizer or `max_seq_length` do not fit the model.
    """
    model = load.load_model(config, AutoModelForQuestionAnswering, settings=model_settings(config))
    check_fit(model, tokenizer, max_seq_length=config.max_seq_length)
    return load.add_adapters(model, config, "QUESTION_ANS")


def model_settings(config: AnsweringConfig) -> dict[str, Any]:
    """The keys of the model's configuration that `hftrain predict` needs to give the same predictions."""
    windows = {field.name: getattr(config, field.name) for field in fields(AnsweringConfig) if field.name in SETTINGS}
    return {"use_cache": False, "hftrain": {"answering": windows | {"no_answer_threshold": 1.0}}}


def save_threshold(accelerator: Accelerator, model: nn.Module, output_dir: str, threshold: float) -> None:
    """Writes into the saved configuration the probability of no answer above which no answer is given."""
    settings = recall(accelerator.unwrap_model(model).config, "answering")
    save_remembered(accelerator, model, output_dir, answering=settings | {"no_answer_threshold": threshold})
