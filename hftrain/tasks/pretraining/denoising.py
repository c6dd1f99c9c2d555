"""Denoising objectives: masked tokens for encoders (BERT), corrupted spans for encoder-decoders (T5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerBase

from hftrain import text
from hftrain.data.examples import Examples
from hftrain.data.noise import mask_tokens, span_corruption
from hftrain.tasks.pretraining.config import DenoisingConfig
from hftrain.text.causal import causal_collator

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AUTO = {"masked_tokens": AutoModelForMaskedLM, "span_corruption": AutoModelForSeq2SeqLM}
SENTINELS = [f"<extra_id_{i}>" for i in range(100)]
MARKS: dict[str, dict[str, Any]] = {  # special tokens of a tokenizer learnt for the objective
    "masked_tokens": {"mask_token": "<mask>"},
    "span_corruption": {"extra_special_tokens": SENTINELS},
}
WORD_STARTS = ("Ġ", "▁", "Ċ")  # byte-level, SentencePiece, line break

Noise = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def make_noise(config: DenoisingConfig, tokenizer: PreTrainedTokenizerBase) -> Noise:
    """Example -> {"input_ids", "labels"}, drawn from NumPy's global generator, by `config.objective`.

    Raises:
        ValueError: the tokenizer has no mask token or no sentinels.
    """
    vocabulary = tokenizer.get_vocab()
    if config.objective == "span_corruption":
        sentinels = [vocabulary[word] for word in SENTINELS if word in vocabulary]
        if not sentinels or tokenizer.eos_token_id is None:
            raise ValueError(
                "span_corruption needs a tokenizer with an end token and T5's <extra_id_0>, <extra_id_1>, ..."
            )
        return partial(
            _corrupt,
            sentinels=sentinels,
            eos_token_id=tokenizer.eos_token_id,
            density=config.mlm_probability,
            mean_span=config.mean_noise_span_length,
        )
    if tokenizer.mask_token_id is None:
        raise ValueError(f"{type(tokenizer).__name__} has no mask token: choose another tokenizer_name_or_path")
    special = np.zeros(len(tokenizer), dtype=bool)
    special[tokenizer.all_special_ids] = True
    starts = word_starts(tokenizer) | special if config.whole_word_mask else None
    random_ids = np.flatnonzero(~special)

    def mask(example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tokens = example["input_ids"]
        words = None if starts is None else np.cumsum(starts[tokens])
        inputs, labels = mask_tokens(
            tokens,
            mask_token_id=tokenizer.mask_token_id,
            random_ids=random_ids,
            free=~special[tokens],
            words=words,
            probability=config.mlm_probability,
        )
        return {"input_ids": inputs, "labels": labels}

    return mask


def _corrupt(example: dict[str, np.ndarray], *, eos_token_id: int, **settings: Any) -> dict[str, np.ndarray]:
    tokens = example["input_ids"]
    if tokens[-1] == eos_token_id:
        tokens = tokens[:-1]  # the inputs get their own end token
    inputs, labels = span_corruption(tokens, eos_token_id=eos_token_id, **settings)
    return {"input_ids": inputs, "labels": labels}


def word_starts(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """(V,) bool: tokens that begin a word, by the marks of WordPiece, byte-level BPE and SentencePiece.

    Raises:
        ValueError: the tokenizer's tokens do not show it.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if any(token.startswith("##") for token in tokens):
        return np.array([not token.startswith("##") for token in tokens])
    if not any(token.startswith(WORD_STARTS[:2]) for token in tokens):
        raise ValueError("whole_word_mask: this tokenizer's tokens do not show where words begin")
    return np.array([token.startswith(WORD_STARTS) for token in tokens])


def measured(noise: Noise, objective: str, examples: Examples) -> Examples:
    """The examples with the lengths after `noise`, for spans (P, 2) source and target, which depend only on the length
    of an example."""
    if objective == "masked_tokens":
        return examples
    unique_lengths, where = np.unique(examples.lengths, return_inverse=True)
    noised = [noise({"input_ids": np.full(length, -1)}) for length in unique_lengths]
    lengths = np.array([[len(row["input_ids"]), len(row["labels"])] for row in noised])
    return examples.replaced(lengths=lengths[where.reshape(-1)])


def denoising_collator(
    objective: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> Callable[[Sequence[Any]], Any]:
    """Noised examples -> a batch of this model.

    Raises:
        ValueError: the model has fewer embeddings than the tokenizer has tokens, or lacks decoder_start_token_id.
    """
    collate = causal_collator(tokenizer, model)
    if objective == "masked_tokens":
        return collate
    start = getattr(model.config, "decoder_start_token_id", None)
    if start is None:
        raise ValueError("the model has no decoder_start_token_id: set model_config.decoder_start_token_id")
    return partial(text.collate_pairs, pad_token_id=tokenizer.pad_token_id, decoder_start_token_id=start)
