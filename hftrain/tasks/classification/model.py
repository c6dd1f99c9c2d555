"""The classifier: pretrained or new, with a head for the classes, with frozen parts or adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from hftrain.losses import Batch
from hftrain.models import TransformerConfig, load
from hftrain.models.fit import check_fit
from hftrain.models.freezing import freeze
from hftrain.models.saved import class_entries
from hftrain.tasks.classification.config import ClassificationConfig
from hftrain.tasks.classification.examples import collate, padding_side
from hftrain.text import vocabulary

if TYPE_CHECKING:
    from torch import nn

TYPES = "token_type_ids"
NEW_MODEL = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
NEW_MODEL |= {"num_encoder_layers": 2, "num_decoder_layers": 0}


def load_classifier(config: ClassificationConfig, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> Any:
    """The model of `config`, or a new encoder, with a head for the classes `names` (empty: for one number).

    Its configuration has the names, the kind of problem, the pad token (a decoder needs it to find a text's last
    token), and settings for `hftrain predict`: the maximum tokens of a text, and one text or two.

    Raises:
        ValueError: tokenizer or `max_seq_length` do not fit the model, or `freeze` matches nothing.
    """
    settings: dict[str, Any] = {
        **class_entries(names),
        "problem_type": config.problem_type,
        "pad_token_id": tokenizer.pad_token_id,
        "use_cache": False,
        "hftrain": {
            "classification": {
                "max_seq_length": config.max_seq_length,
                "pairs": config.text_pair_column is not None,
            }
        },
    }
    shape = vocabulary(tokenizer) | NEW_MODEL | config.model_config
    new = partial(TransformerConfig, **shape)
    model = load.load_model(config, AutoModelForSequenceClassification, new=new, settings=settings)
    check_fit(model, tokenizer, max_seq_length=config.max_seq_length)
    if config.freeze:
        freeze(model, config.freeze)
    return load.add_adapters(model, config, "SEQ_CLS")


def collator(
    tokenizer: PreTrainedTokenizerBase, model: nn.Module, config: ClassificationConfig
) -> Callable[[Sequence[Any]], Batch]:
    """`collate` for the inputs of this model."""
    return model_collator(tokenizer, model, config.problem_type)


def model_collator(tokenizer: PreTrainedTokenizerBase, model: Any, problem: str) -> Callable[[Sequence[Any]], Batch]:
    """`collate` for the inputs of a model and a problem. Without a pad token, 0 pads, which attention never reads."""
    module = model.get_base_model() if hasattr(model, "get_base_model") else model
    return partial(
        collate,
        pad_token_id=tokenizer.pad_token_id or 0,
        problem=problem,
        classes=module.config.num_labels,
        side=padding_side(module.config),
        typed=TYPES in tokenizer.model_input_names and TYPES in signature(module.forward).parameters,
    )
