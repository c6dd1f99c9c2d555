"""A language model prepared for chats: embeddings of new tokens, end and pad tokens of its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoModelForCausalLM

from hftrain.models import load
from hftrain.models.fit import check_fit, embedding_rows
from hftrain.models.freezing import freeze
from hftrain.tasks.chat.config import ChatRecipeConfig
from hftrain.tasks.chat.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_chat_model(config: ChatRecipeConfig, template: Template) -> Any:
    """The model that `config` names, fitted to the template, with the parameters frozen that `freeze` names; without
    new adapters yet."""
    model = load.load_model(config, AutoModelForCausalLM)
    fit_model(model, template, config.max_length)
    freeze(model, config.freeze)
    return model


def fit_model(model: PreTrainedModel, template: Template, max_length: int) -> None:
    """Gives the model what the template needs: embeddings of new tokens, end and pad tokens of generation.

    Raises:
        ValueError: the tokenizer does not fit the model, or the model has fewer than `max_length` positions.
    """
    tokenizer, rows = template.tokenizer, embedding_rows(model)
    if all(index in template.new_ids for index in range(rows, len(tokenizer))) and len(tokenizer) > rows:
        # without weights there is no mean that new embeddings could begin with
        model.resize_token_embeddings(len(tokenizer), mean_resizing=not model.get_input_embeddings().weight.is_meta)
    check_fit(model, tokenizer, max_length=max_length)
    model.config.pad_token_id = tokenizer.pad_token_id
    generation = getattr(model, "generation_config", None)
    if generation is not None:  # a reward model does not generate
        ends = generation.eos_token_id or []
        generation.eos_token_id = sorted({template.end_id, *([ends] if isinstance(ends, int) else ends)})
        generation.pad_token_id = tokenizer.pad_token_id
