"""Classification of recordings: one class, several labels, or a number."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.audio_classification.config import AudioClassificationConfig
    from hftrain.tasks.audio_classification.examples import augmentation, collator, make_examples
    from hftrain.tasks.audio_classification.model import load_classifier, load_features
    from hftrain.tasks.audio_classification.report import summarize
    from hftrain.tasks.audio_classification.rows import load_recordings
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "AudioClassificationConfig",
    "augmentation",
    "collator",
    "load_classifier",
    "load_features",
    "load_recordings",
    "make_examples",
    "summarize",
]
