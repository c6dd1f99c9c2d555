"""Texts and pairs of texts as token ids, and their batches.

Shapes: B examples of a batch, T tokens, K classes or labels (1 for regression).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from hftrain.data.examples import Examples
from hftrain.labels.classes import ID_TYPE, batch_labels, number_label
from hftrain.losses import Batch
from hftrain.models import load
from hftrain.tasks.classification.config import ClassificationConfig
from hftrain.text import attention_mask, learn_tokenizer, pad, require_pad_token, tokenized
from hftrain.text.examples import TOKENS, of_split

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)


def load_tokenizer(rows: Rows, config: ClassificationConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of `config` or of the model, or else one learnt from the texts of `rows`; with a pad token."""
    tokenizer = load.load_tokenizer(config)
    if tokenizer is None:
        tokenizer = learn_tokenizer(rows.data.remove_columns("label"), config.vocab_size)
        tokenizer.model_input_names = ["input_ids", "attention_mask"]  # our model has no token types
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token  # never used: the attention mask hides padding
    require_pad_token(tokenizer)
    return tokenizer


def tokenize(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int], config: ClassificationConfig
) -> Examples:
    """Rows as examples {"input_ids": (T,), ["token_type_ids": (T,),] "length", "labels"}: `length` counts the tokens
    before truncation, `labels` is a class's number, the numbers of all labels, or the number to predict.

    Cached on disk by `text.tokenized`; the count `truncated` is the number of truncated texts, which is logged.
    """
    typed = "token_type_ids" in tokenizer.model_input_names

    def convert(batch: dict[str, list[Any]]) -> tuple[dict[str, list[Any]], dict[str, int]]:
        columns, lengths = encode(tokenizer, batch["text"], batch.get("text_pair"), config.max_seq_length)
        columns |= {"length": lengths, "labels": [number_label(label, ids) for label in batch["label"]]}
        return columns, {"truncated": sum(length > config.max_seq_length for length in lengths)}

    columns = [("input_ids", TOKENS), ("length", pa.int32()), ("labels", ID_TYPE[config.problem_type])]
    examples = tokenized(
        rows,
        tokenizer,
        convert,
        schema=pa.schema([*columns, *([("token_type_ids", TOKENS)] if typed else [])]),
        arguments=[config.max_seq_length, dict(ids), config.problem_type],
    )
    if truncated := examples.counts["truncated"]:
        logger.warning(
            "%s%d of %d texts (%.1f %%) are longer than max_seq_length = %d and are truncated",
            *(of_split(rows), truncated, len(examples), 100 * truncated / len(examples)),
            config.max_seq_length,
        )
    return examples


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None, max_length: int
) -> tuple[dict[str, list[Any]], list[int]]:
    """Token ids and, if the model uses them, types of each text or pair; and the lengths before truncation of the
    longer text of a pair. Only inputs that are too long are encoded again, by the tokenizer's own rules."""
    names = [name for name in tokenizer.model_input_names if name in ("input_ids", "token_type_ids")]
    encoded = tokenizer(texts, pairs, verbose=False)
    columns = {name: list(encoded[name]) for name in names}
    lengths = [len(tokens) for tokens in columns["input_ids"]]
    if long := [row for row, length in enumerate(lengths) if length > max_length]:
        cut = tokenizer(
            [texts[row] for row in long],
            None if pairs is None else [pairs[row] for row in long],
            truncation=True,
            max_length=max_length,
        )
        for name in names:
            for row, values in zip(long, cut[name], strict=True):
                columns[name][row] = values
    return columns, lengths


def padding_side(config: PreTrainedConfig) -> str:
    """The side of padding for a model of this configuration: left if it uses the last token (XLNet)."""
    return "left" if getattr(config, "summary_type", None) == "last" else "right"


def collate(
    examples: Sequence[Mapping[str, Any]],
    *,
    pad_token_id: int,
    problem: str,
    classes: int,
    typed: bool,
    side: str = "right",
) -> Batch:
    """A batch, padded on a side: input_ids, attention_mask and, if `typed`, token_type_ids (B, T); labels (B,) int64,
    (B, K) 0.0 or 1.0 for several labels, (B,) float32 for numbers."""
    ids = [example["input_ids"] for example in examples]
    batch = {
        "input_ids": pad(ids, pad_token_id, side=side),
        "attention_mask": attention_mask(ids, side=side),
    }
    if typed:
        batch["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0, side=side)
    batch["labels"] = batch_labels([example["labels"] for example in examples], problem, classes)
    return batch
