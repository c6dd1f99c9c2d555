"""Scores of segmented images: IoU of classes, and panoptic quality. Masks of objects are scored in `detection`.

Shapes: K classes, H, W height and width of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Confusion:
    """Pixels by true and predicted class, added image by image. counts (K, K): true class, predicted class."""

    classes: int
    counts: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.counts is None:
            self.counts = np.zeros((self.classes, self.classes), np.int64)

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """(H, W) class numbers; negative ones in `truth` do not count."""
        known = truth >= 0
        places = truth[known] * self.classes + predicted[known]
        self.counts += np.bincount(places, minlength=self.classes**2).reshape(self.classes, self.classes)

    def add_counts(self, counts: np.ndarray) -> None:
        """Adds `counts` of other images."""
        self.counts += counts

    @property
    def sums(self) -> np.ndarray:
        """(3, K) pixels that are right, that are of each class, and that are called so."""
        return np.stack([self.counts.diagonal(), self.counts.sum(1), self.counts.sum(0)])

    @property
    def ious(self) -> np.ndarray:
        """(K,) intersection over union of each class; NaN if it is neither true nor predicted."""
        return ious(self.sums)

    def numbers(self) -> dict[str, float]:
        """The scores of all images."""
        return pixel_scores(self.sums)


def ious(sums: np.ndarray) -> np.ndarray:
    """(K,) intersection over union of each class from `Confusion.sums`; NaN if it is neither true nor predicted."""
    both, true, predicted = sums
    union = true + predicted - both
    return np.where(union > 0, both / np.maximum(union, 1), np.nan)


def pixel_scores(sums: np.ndarray) -> dict[str, float]:
    """mean_iou over the classes that occur, pixel_accuracy, and mean_accuracy over the true classes, from
    `Confusion.sums`."""
    both, true, _ = sums
    accuracies = both[true > 0] / true[true > 0]
    values = ious(sums)
    known = values[~np.isnan(values)]
    return {
        "mean_iou": float(known.mean()) if len(known) else float("nan"),
        "pixel_accuracy": float(both.sum() / true.sum()) if true.sum() else float("nan"),
        "mean_accuracy": float(accuracies.mean()) if len(accuracies) else float("nan"),
    }


def usual_class(training: np.ndarray, sums: np.ndarray) -> dict[str, float]:
    """The scores of calling every pixel the class that most pixels of the training images have.

    Args:
        training: (K,) pixels of each class. `sums`: `Confusion.sums` of the scored images.
    """
    true, usual = sums[1], int(training.argmax())
    guess = np.zeros_like(sums)
    guess[0, usual], guess[1], guess[2, usual] = true[usual], true, true.sum()
    return pixel_scores(guess)


@dataclass
class Quality:
    """Matched and unmatched segments of each class (Kirillov et al. 2018, arXiv 1801.00868, as COCO's panopticapi
    counts them), added image by image."""

    classes: int
    iou: np.ndarray = field(init=False)  # (K,) sum over matched segments
    matched: np.ndarray = field(init=False)
    false: np.ndarray = field(init=False)
    missed: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.iou = np.zeros(self.classes)
        self.matched, self.false, self.missed = (np.zeros(self.classes, np.int64) for _ in range(3))

    def add(
        self,
        truth: np.ndarray,
        labels: Sequence[int],
        crowds: Sequence[bool],
        predicted: np.ndarray,
        predicted_labels: Sequence[int],
    ) -> None:
        """One image: maps (H, W) with 0 for void, and of segment i, counted from 1, the class labels[i - 1]."""
        size = len(predicted_labels) + 1
        common = np.bincount((truth * size + predicted).ravel(), minlength=(len(labels) + 1) * size).reshape(-1, size)
        areas, predicted_areas = common.sum(1), common.sum(0)
        used = np.zeros((2, max(common.shape)), bool)
        for i, label in enumerate(labels, 1):
            for j in map(int, np.flatnonzero(common[i, 1:]) + 1):
                if crowds[i - 1] or predicted_labels[j - 1] != label:
                    continue
                union = areas[i] + predicted_areas[j] - common[i, j] - common[0, j]
                if common[i, j] / union > 0.5:
                    self.iou[label] += common[i, j] / union
                    self.matched[label] += 1
                    used[0, i] = used[1, j] = True
            if areas[i] and not crowds[i - 1] and not used[0, i]:
                self.missed[label] += 1
        crowded = {label: number for number, label in enumerate(labels, 1) if crowds[number - 1]}
        for j, label in enumerate(predicted_labels, 1):
            ignored = common[0, j] + (common[crowded[label], j] if label in crowded else 0)
            if predicted_areas[j] and not used[1, j] and ignored / predicted_areas[j] <= 0.5:
                self.false[label] += 1

    @property
    def sums(self) -> np.ndarray:
        """(4, K) sums of IoU, and numbers of matched, false and missed segments."""
        return np.stack([self.iou, self.matched, self.false, self.missed])

    def add_sums(self, sums: np.ndarray) -> None:
        """Adds `sums` of other images."""
        self.iou, self.matched, self.false, self.missed = self.sums + sums

    @property
    def by_class(self) -> np.ndarray:
        """(K, 3) pq, sq and rq; NaN for a class without true and predicted segments."""
        count = self.matched + self.false / 2 + self.missed / 2
        occurs = count > 0
        safe = np.maximum(count, 0.5)
        values = np.stack([self.iou / safe, self.iou / np.maximum(self.matched, 1), self.matched / safe], axis=1)
        return np.where(occurs[:, None], values, np.nan)

    def numbers(self, things: Sequence[int]) -> dict[str, float]:
        """pq, sq, rq: means over classes that occur; pq_things and pq_stuff over those that are objects or not."""
        values = self.by_class
        groups = {"": np.ones(self.classes, bool), "_things": np.zeros(self.classes, bool)}
        groups["_things"][list(things)] = True
        groups["_stuff"] = ~groups["_things"]
        result: dict[str, float] = {}
        for ending, members in groups.items():
            known = values[members & ~np.isnan(values[:, 0])]
            if len(known):
                names = ("pq", "sq", "rq") if not ending else ("pq",)
                result |= {name + ending: float(known[:, place].mean()) for place, name in enumerate(names)}
        return result
