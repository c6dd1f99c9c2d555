"""Tagging: a tag for each word, of entities or of parts of speech."""

from hftrain.tagging.predictions import Tagged, join, loss, score, tag, tag_batch
from hftrain.tagging.report import model_settings, report, usage
from hftrain.tagging.rows import TaggingConfig, find_scheme, label_names, load_sentences, scheme_fault
from hftrain.tagging.windows import collate, collator, cut_sentences, load_tokenizer, tokenize, windows

__all__ = [
    "Tagged",
    "TaggingConfig",
    "collate",
    "collator",
    "cut_sentences",
    "find_scheme",
    "join",
    "label_names",
    "load_sentences",
    "load_tokenizer",
    "loss",
    "model_settings",
    "report",
    "scheme_fault",
    "score",
    "tag",
    "tag_batch",
    "tokenize",
    "usage",
    "windows",
]
