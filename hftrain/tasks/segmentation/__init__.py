"""Segmentation of images: a class for each pixel, a mask for each object, or both."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.segmentation.config import SegmentationConfig
    from hftrain.tasks.segmentation.examples import augmentation, collator, make_examples
    from hftrain.tasks.segmentation.losses import SegmentLoss
    from hftrain.tasks.segmentation.model import load_canvas, load_segmenter, predicts_sets
    from hftrain.tasks.segmentation.report import summarize
    from hftrain.tasks.segmentation.rows import Classes, load_segments
    from hftrain.tasks.segmentation.scoring import Segments, score, segment
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "Classes",
    "SegmentLoss",
    "SegmentationConfig",
    "Segments",
    "augmentation",
    "collator",
    "load_canvas",
    "load_segmenter",
    "load_segments",
    "make_examples",
    "predicts_sets",
    "score",
    "segment",
    "summarize",
]
