"""Tagging: a tag for each word, of entities or of parts of speech."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.tagging.config import TagConfig, TaggingConfig
    from hftrain.tasks.tagging.examples import collate, collator, cut_sentences, load_tokenizer, tokenize
    from hftrain.tasks.tagging.judging import judge
    from hftrain.tasks.tagging.report import model_settings, summarize
    from hftrain.tasks.tagging.rows import find_scheme, label_names, load_sentences, scheme_fault
    from hftrain.tasks.tagging.scoring import Tagged, join, loss, score, tag, tag_batch
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "TagConfig",
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
    "model_settings",
    "scheme_fault",
    "score",
    "summarize",
    "tag",
    "tag_batch",
    "tokenize",
]
