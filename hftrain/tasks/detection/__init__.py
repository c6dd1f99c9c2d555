"""Detection of objects in images: a box and a class for each."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.detection.config import DetectionConfig
    from hftrain.tasks.detection.examples import augmentation, collator, make_examples
    from hftrain.tasks.detection.losses import SetLoss
    from hftrain.tasks.detection.model import load_canvas, load_detector
    from hftrain.tasks.detection.report import summarize
    from hftrain.tasks.detection.rows import load_objects
    from hftrain.tasks.detection.scoring import Found, find, numbers, score
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "DetectionConfig",
    "Found",
    "SetLoss",
    "augmentation",
    "collator",
    "find",
    "load_canvas",
    "load_detector",
    "load_objects",
    "make_examples",
    "numbers",
    "score",
    "summarize",
]
