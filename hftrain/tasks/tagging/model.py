"""The model that tags, and what it remembers: its tags, and the windows that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from hftrain.models import load
from hftrain.models.fit import check_fit
from hftrain.models.saved import class_entries
from hftrain.tasks.tagging.config import TagConfig, TaggingConfig


def load_tagger(config: TagConfig, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> Any:
    """The model that `config` names with a head for the tags `names`, and, if asked for, adapters.

    Raises:
        ValueError: tokenizer or `max_seq_length` do not fit the model.
    """
    model = load.load_model(config, AutoModelForTokenClassification, settings=model_settings(names, config))
    check_fit(model, tokenizer, max_seq_length=config.max_seq_length)
    return load.add_adapters(model, config, "TOKEN_CLS")


def model_settings(names: Sequence[str], config: TaggingConfig) -> dict[str, Any]:
    """The keys of the model's configuration that `hftrain predict` needs to give the same predictions."""
    return {
        **class_entries(names),
        "use_cache": False,
        "hftrain": {"windows": {"max_seq_length": config.max_seq_length, "doc_stride": config.doc_stride}},
    }
