"""Text to tokens and back: a tokenizer learnt from the training text, rows as examples, examples as a batch."""

from hftrain.text.examples import attention_mask, list_lengths, pad, tokenized
from hftrain.text.pairs import collate_pairs, tokenize_pairs
from hftrain.text.tokenizer import (
    decode,
    language_id,
    learn_tokenizer,
    require_pad_token,
    texts_of,
    train_tokenizer,
    vocabulary,
)

__all__ = [
    "attention_mask",
    "collate_pairs",
    "decode",
    "language_id",
    "learn_tokenizer",
    "list_lengths",
    "pad",
    "require_pad_token",
    "texts_of",
    "tokenize_pairs",
    "tokenized",
    "train_tokenizer",
    "vocabulary",
]
