"""Classification of images: one class, several labels, or a number."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.image_classification.config import ImageClassificationConfig
    from hftrain.tasks.image_classification.examples import augmentation, collator, make_examples
    from hftrain.tasks.image_classification.model import load_classifier
    from hftrain.tasks.image_classification.report import summarize
    from hftrain.tasks.image_classification.rows import load_images
    from hftrain.vision.sizes import load_pixels
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "ImageClassificationConfig",
    "augmentation",
    "collator",
    "load_classifier",
    "load_images",
    "load_pixels",
    "make_examples",
    "summarize",
]
