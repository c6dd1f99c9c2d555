"""What a translation model remembers: beams, lengths, the target language, the prefix of its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerBase

from hftrain.models import TransformerConfig, load
from hftrain.models.fit import check_fit
from hftrain.models.saved import remember
from hftrain.tasks.translation.config import TranslateConfig
from hftrain.text import language_id, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NEW_MODEL = {"hidden_size": 128, "intermediate_size": 512, "num_encoder_layers": 2, "num_decoder_layers": 2}


def load_translator(config: TranslateConfig, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The model that `config` names, or a new small one, with `set_generation` and, if asked for, adapters."""
    shape = vocabulary(tokenizer) | NEW_MODEL | config.model_config
    model = load.load_model(config, AutoModelForSeq2SeqLM, new=lambda: TransformerConfig(**shape))
    set_generation(model, tokenizer, config)
    return load.add_adapters(model, config, "SEQ_2_SEQ_LM")


def set_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: TranslateConfig) -> None:
    """Makes beams, length and target language the model's own defaults. They are saved with it, as is the prefix of
    the sources.

    Raises:
        ValueError: the model has fewer positions than max_source_length or max_target_length.
    """
    check_fit(model, max_source_length=config.max_source_length, max_target_length=config.max_target_length)
    if config.source_prefix:
        remember(model.config, translation={"source_prefix": config.source_prefix})
    generation = model.generation_config
    generation.num_beams, generation.early_stopping = config.num_beams, config.num_beams > 1
    generation.max_length, generation.max_new_tokens = None, config.max_target_length
    language = language_id(tokenizer, config.target_lang)
    if language is not None and tokenizer(text_target="a")["input_ids"][-1] == language:
        generation.decoder_start_token_id, generation.forced_bos_token_id = language, None  # as `pair_collator` has it
    elif language is not None:
        generation.forced_bos_token_id = language
