"""Labels of any input: classes and their numbers, losses, scores, thresholds and their report."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.labels.classes import number_classes, references, weights
    from hftrain.labels.losses import classification
    from hftrain.labels.report import Tested
    from hftrain.labels.scoring import Scores, choose_thresholds, measure, score
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "Scores",
    "Tested",
    "choose_thresholds",
    "classification",
    "measure",
    "number_classes",
    "references",
    "score",
    "weights",
]
