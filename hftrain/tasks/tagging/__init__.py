"""Tagging: a tag for each word, of entities or of parts of speech."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.tagging.config import TagConfig, TaggingConfig
    from hftrain.tasks.tagging.examples import collate, collator, cut_sentences, load_tokenizer, tokenize
    from hftrain.tasks.tagging.judging import judge
    from hftrain.tasks.tagging.labels import find_scheme, label_names, scheme_fault
    from hftrain.tasks.tagging.losses import loss
    from hftrain.tasks.tagging.model import load_tagger, model_settings
    from hftrain.tasks.tagging.report import summarize
    from hftrain.tasks.tagging.rows import load_sentences
    from hftrain.tasks.tagging.scoring import Tagged, choose_metrics, join, score, tag, tag_batch
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "TagConfig",
    "Tagged",
    "TaggingConfig",
    "choose_metrics",
    "collate",
    "collator",
    "cut_sentences",
    "find_scheme",
    "join",
    "judge",
    "label_names",
    "load_sentences",
    "load_tagger",
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
