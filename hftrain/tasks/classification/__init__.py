"""Classification of texts and of pairs of texts: one class, several labels, or a number."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.classification.augment import augmentation
    from hftrain.tasks.classification.config import ClassificationConfig
    from hftrain.tasks.classification.judging import judge
    from hftrain.tasks.classification.labels import number_classes
    from hftrain.tasks.classification.losses import classification, count_examples
    from hftrain.tasks.classification.model import collator, load_classifier
    from hftrain.tasks.classification.report import summarize
    from hftrain.tasks.classification.rows import load_labelled, load_tokenizer, references, tokenize, weights
    from hftrain.tasks.classification.scoring import Scores, choose_thresholds, measure, score
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "ClassificationConfig",
    "Scores",
    "augmentation",
    "choose_thresholds",
    "classification",
    "collator",
    "count_examples",
    "judge",
    "load_classifier",
    "load_labelled",
    "load_tokenizer",
    "measure",
    "number_classes",
    "references",
    "score",
    "summarize",
    "tokenize",
    "weights",
]
