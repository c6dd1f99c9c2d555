"""Classification of texts and of pairs of texts: one class, several labels, or a number."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.classification.augment import augmentation
    from hftrain.tasks.classification.config import ClassificationConfig
    from hftrain.tasks.classification.examples import load_tokenizer, tokenize
    from hftrain.tasks.classification.model import collator, load_classifier
    from hftrain.tasks.classification.report import summarize
    from hftrain.tasks.classification.rows import load_labelled
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "ClassificationConfig",
    "augmentation",
    "collator",
    "load_classifier",
    "load_labelled",
    "load_tokenizer",
    "summarize",
    "tokenize",
]
