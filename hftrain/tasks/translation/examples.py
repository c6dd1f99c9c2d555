"""Pairs as tokens, and their batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from hftrain.data.examples import Examples
from hftrain.losses import Batch
from hftrain.models import load
from hftrain.models.fit import check_fit
from hftrain.tasks.translation.config import TranslateConfig
from hftrain.text import collate_pairs, learn_tokenizer, require_pad_token, tokenize_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hftrain.data.rows import Rows


def load_tokenizer(rows: Rows, config: TranslateConfig) -> PreTrainedTokenizerBase:
    """The tokenizer that `config` names or the model brings along, else one learnt from the texts of `rows`."""
    return load.load_tokenizer(config) or learn_tokenizer(rows, config.vocab_size)


def pair_collator(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Callable[[Sequence[Any]], Batch]:
    """`collate_pairs` with the special ids of this model and its tokenizer.

    Raises:
        ValueError: the tokenizer has no pad token or does not fit the model, which may lack decoder_start_token_id.
    """
    config = model.config
    require_pad_token(tokenizer)
    check_fit(model, tokenizer)
    rotates = config.model_type in ("mbart", "plbart")  # the decoder starts with the language, which ends the labels
    start = getattr(config, "decoder_start_token_id", None)  # PLBart's configuration lacks this key
    if start is None and not rotates:
        raise ValueError(
            "the model's configuration has no decoder_start_token_id: set model_config.decoder_start_token_id"
        )
    return partial(
        collate_pairs,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=None if rotates else start,
    )


def tokenize(rows: Rows, tokenizer: PreTrainedTokenizerBase, config: TranslateConfig) -> Examples:
    """`text.tokenize_pairs` with the settings of `config`."""
    return tokenize_pairs(
        rows,
        tokenizer,
        source_lang=config.source_lang,
        target_lang=config.target_lang,
        source_prefix=config.source_prefix,
        max_source_length=config.max_source_length,
        max_target_length=config.max_target_length,
    )
