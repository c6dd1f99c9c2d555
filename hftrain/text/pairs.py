"""Pairs of texts as examples of an encoder-decoder.

Shapes: B examples of a batch, S source tokens, T target tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from hftrain.data.examples import Examples
from hftrain.text.examples import TOKENS, attention_mask, of_split, pad, tokenized
from hftrain.text.tokenizer import language_id, language_ids

if TYPE_CHECKING:
    from datasets import Dataset

    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)


def tokenize_pairs(
    rows: Rows | Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_source_length: int,
    max_target_length: int,
    source_lang: str | None = None,
    target_lang: str | None = None,
    source_prefix: str = "",
    cache_dir: str | Path | None = None,
) -> Examples:
    """Rows {"source", "target"} as examples {"input_ids": (S,), "labels": (T,)}: token ids with special tokens.

    The i-th example is the i-th row; cached on disk by `tokenized`.

    Args:
        max_source_length, max_target_length: in tokens, special tokens included. Longer texts are truncated, keep their
            special tokens, and are counted: in the log, and as "source truncated" and "target truncated".
        source_lang, target_lang: languages for a multilingual tokenizer; other tokenizers ignore them.
        source_prefix: prepended to each source ("translate English to German: ").
        cache_dir: as in `tokenized`.

    Raises:
        ValueError: the language is unknown, a length is under 2, or the tokenizer does not mark the end of a text.
    """
    if min(max_source_length, max_target_length) < 2:
        raise ValueError(f"max lengths must be 2 or more, got {max_source_length} and {max_target_length}")
    if language_ids(tokenizer):
        for language in (source_lang, target_lang):
            language_id(tokenizer, language)
        tokenizer.src_lang, tokenizer.tgt_lang = source_lang, target_lang
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    if not ends & set(tokenizer(text_target="a")["input_ids"]):
        raise ValueError(f"{type(tokenizer).__name__} adds no end token to a text, so the model cannot learn to stop")

    limits = {"source": max_source_length, "target": max_target_length}

    def convert(batch: dict[str, list[str]]) -> tuple[dict[str, list[Any]], dict[str, int]]:
        sources = [source_prefix + text for text in batch["source"]]
        inputs, long_sources = _encode(tokenizer, "text", sources, max_source_length)
        labels, long_targets = _encode(tokenizer, "text_target", batch["target"], max_target_length)
        counts = {"source truncated": long_sources, "target truncated": long_targets}
        return {"input_ids": inputs, "labels": labels}, counts

    examples = tokenized(
        rows,
        tokenizer,
        convert,
        schema=pa.schema([("input_ids", TOKENS), ("labels", TOKENS)]),
        arguments=[limits, source_lang, target_lang, source_prefix],
        lengths=["input_ids", "labels"],
        cache_dir=cache_dir,
    )
    for side in limits:
        if count := examples.counts[f"{side} truncated"]:
            share = 100 * count / len(examples)
            logger.warning(
                "%s%d of %d rows (%.1f %%) have a longer %s than max_%s_length = %d and are truncated",
                *(of_split(rows), count, len(examples), share, side, side, limits[side]),
            )
    return examples


def _encode(
    tokenizer: PreTrainedTokenizerBase, argument: str, texts: list[str], max_length: int
) -> tuple[list[list[int]], int]:
    """Token ids of each text, and how many were truncated: only these are encoded again, by the tokenizer's rules."""
    ids = tokenizer(**{argument: texts}, return_attention_mask=False, verbose=False)["input_ids"]
    long = [index for index, tokens in enumerate(ids) if len(tokens) > max_length]
    if long:
        again = tokenizer(**{argument: [texts[index] for index in long]}, truncation=True, max_length=max_length)
        for index, tokens in zip(long, again["input_ids"], strict=True):
            ids[index] = tokens
    return ids, len(long)


def collate_pairs(
    examples: Sequence[Mapping[str, Sequence[int]]],
    *,
    pad_token_id: int,
    decoder_start_token_id: int | None,
    pad_to_multiple_of: int = 1,
) -> dict[str, torch.Tensor]:
    """Pads examples to a batch; the decoder reads the labels shifted right by one.

    Padding is on the right, where causal self-attention needs no mask. It is recognized by position, never by id, since
    the pad token may be the end token.

    Args:
        decoder_start_token_id: the first input of the decoder; None: the last label (mBART: a text ends with its
            language).
        pad_to_multiple_of: S and T are rounded up to a multiple of this.

    Returns:
        int64: input_ids, attention_mask (B, S); decoder_input_ids, labels (B, T), the latter padded with -100.
    """
    sources = [example["input_ids"] for example in examples]
    labels = [np.asarray(example["labels"]) for example in examples]
    first = decoder_start_token_id
    shifted = [np.concatenate([tokens[-1:] if first is None else [first], tokens[:-1]]) for tokens in labels]
    return {
        "input_ids": pad(sources, pad_token_id, pad_to_multiple_of),
        "attention_mask": attention_mask(sources, pad_to_multiple_of),
        "decoder_input_ids": pad(shifted, pad_token_id, pad_to_multiple_of),
        "labels": pad(labels, -100, pad_to_multiple_of),
    }
