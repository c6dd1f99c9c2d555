"""Pretraining on text: causal language models, masked language models, hidden spans."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.metrics.perplexity import readings as denoising_readings
    from hftrain.tasks.pretraining.config import PretrainConfig, PretrainMlmConfig
    from hftrain.tasks.pretraining.denoising import MARKS, denoising_collator, make_noise, measured
    from hftrain.tasks.pretraining.model import load_causal_model, load_denoiser
    from hftrain.tasks.pretraining.report import (
        continuations,
        describe,
        judge,
        readings,
        summarize,
        summarize_denoising,
        usage,
    )
    from hftrain.tasks.pretraining.tokens import learn_tokenizer, load_tokens, make_blocks, max_tokens, name_sources
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "MARKS",
    "PretrainConfig",
    "PretrainMlmConfig",
    "continuations",
    "denoising_collator",
    "denoising_readings",
    "describe",
    "judge",
    "learn_tokenizer",
    "load_causal_model",
    "load_denoiser",
    "load_tokens",
    "make_blocks",
    "make_noise",
    "max_tokens",
    "measured",
    "name_sources",
    "readings",
    "summarize",
    "summarize_denoising",
    "usage",
]
