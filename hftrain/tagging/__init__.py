"""Tagging: a tag for each word, of entities or of parts of speech."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tagging.judging import judge
    from hftrain.tagging.predictions import Tagged, join, loss, score, tag, tag_batch
    from hftrain.tagging.rows import find_scheme, label_names, load_sentences, scheme_fault
    from hftrain.tagging.settings import TaggingConfig
    from hftrain.tagging.windows import collate, collator, cut_sentences, load_tokenizer, tokenize
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "Tagged",
    "TaggingConfig",
    "collate",
    "collator",
    "cut_sentences",
    "find_scheme",
    "join",
    "judge",
    "label_names",
    "load_sentences",
    "load_tokenizer",
    "loss",
    "scheme_fault",
    "score",
    "tag",
    "tag_batch",
    "tokenize",
]
