"""Scores of detected boxes and masks as COCO defines them, by pycocotools.

Shapes: G true objects of an image, D detections of an image, K classes. A box is (left, upper, right, lower).
"""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from hftrain.metrics.intervals import Interval, bootstrap

STATS = {"map": 0, "map_50": 1, "map_75": 2, "map_small": 3, "map_medium": 4, "map_large": 5, "ar_100": 8}


@dataclass
class Boxes:
    """True and detected boxes or masks of images, added image by image, in any order."""

    truth: list[dict[str, Any]] = field(default_factory=list)
    detected: list[dict[str, Any]] = field(default_factory=list)
    images: int = 0
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # (height, width) of images with masks

    def add(
        self,
        boxes: np.ndarray,
        labels: Sequence[int],
        crowd: Sequence[bool],
        areas: Sequence[float],
        detections: np.ndarray,
    ) -> None:
        """One image: boxes (G, 4), and detections (D, 6): score, class, left, upper, right, lower."""
        self.images += 1
        for box, label, many, area in zip(boxes.reshape(-1, 4), labels, crowd, areas, strict=True):
            facts = {"id": len(self.truth) + 1, "image_id": self.images, "category_id": int(label)}
            self.truth.append(facts | {"bbox": _sides(box), "area": float(area), "iscrowd": int(many)})
        for score, label, *corners in detections.reshape(-1, 6).tolist():
            sides = _sides(np.array(corners))
            facts = {"id": len(self.detected) + 1, "image_id": self.images, "category_id": int(label), "score": score}
            self.detected.append(facts | {"bbox": sides, "area": sides[2] * sides[3], "iscrowd": 0})

    def add_masks(
        self,
        masks: Sequence[str],
        labels: Sequence[int],
        crowd: Sequence[bool],
        areas: Sequence[float],
        detections: Sequence[tuple[int, float, str]],
        size: tuple[int, int],
    ) -> None:
        """One image of (height, width): run-length encodings of G masks, and D detections (class, score, encoding)."""
        from pycocotools import mask

        self.images += 1
        self.sizes[self.images] = size

        def coded(counts: str) -> dict[str, Any]:
            return {"size": list(size), "counts": counts.encode()}

        for counts, label, many, area in zip(masks, labels, crowd, areas, strict=True):
            facts = {"id": len(self.truth) + 1, "image_id": self.images, "category_id": int(label)}
            self.truth.append(facts | {"segmentation": coded(counts), "area": float(area), "iscrowd": int(many)})
        for label, score, counts in detections:
            facts = {"id": len(self.detected) + 1, "image_id": self.images, "category_id": int(label)}
            area = float(mask.area(coded(counts)))
            self.detected.append(facts | {"score": score, "segmentation": coded(counts), "area": area, "iscrowd": 0})


@dataclass(frozen=True)
class Scores:
    """Scores of `measure`. average_precisions (K,): of each class, over IoU 0.5 to 0.95, NaN for a class without
    objects; at_half (K,): at IoU 0.5; curves (K, 101): precision at IoU 0.5 for the recalls 0, 0.01, ... 1."""

    numbers: dict[str, float]
    average_precisions: np.ndarray
    at_half: np.ndarray
    curves: np.ndarray
    intervals: dict[str, Interval] = field(default_factory=dict)


def measure(boxes: Boxes, classes: int, kind: Literal["bbox", "segm"] = "bbox", *, report: bool = False) -> Scores:
    """COCO's scores of boxes, or of masks ("segm"); NaN if there are no true objects, as for a size that none has. With
    `report` also the 95 % intervals of map, map_50 and map_75."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (boxes.truth, boxes.detected):
            coco = COCO()
            coco.dataset = {
                "images": [
                    {"id": number, **dict(zip(("height", "width"), boxes.sizes.get(number, ()), strict=False))}
                    for number in range(1, boxes.images + 1)
                ],
                "categories": [{"id": number} for number in range(classes)],
                "annotations": [dict(annotation) for annotation in annotations],
            }
            coco.createIndex()
            sides.append(coco)
        evaluation = COCOeval(*sides, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    intervals = {}
    if report:
        ranked, recalls = _ranked(evaluation), evaluation.params.recThrs
        intervals = bootstrap(lambda drawn: _resampled(ranked, drawn, recalls), boxes.images)
    stats = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; of all sizes, 100 detections
    known = np.where(precision < 0, np.nan, precision)
    return Scores(
        {name: float(stats[place]) for name, place in STATS.items()},
        known.mean(axis=(0, 1)),
        known[0].mean(axis=0),
        known[0].T,
        intervals,
    )


class _Ranked(NamedTuple):
    """Detections of a class, the best first. hits, misses (T, D): at each IoU; of (D,): the image of each; objects
    (I,): true ones of each image."""

    hits: np.ndarray
    misses: np.ndarray
    of: np.ndarray
    objects: np.ndarray


def _ranked(evaluation: Any) -> list[_Ranked]:
    """The detections of each class, as pycocotools' `COCOeval` has matched them."""
    images, areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    most, thresholds = evaluation.params.maxDets[-1], len(evaluation.params.iouThrs)
    classes = []
    for category in range(len(evaluation.params.catIds)):
        first = category * areas * images  # of all sizes
        matches = [(image, one) for image, one in enumerate(evaluation.evalImgs[first : first + images]) if one]
        scores = np.concatenate([np.zeros(0), *(one["dtScores"][:most] for _, one in matches)])
        order = np.argsort(-scores, kind="stable")

        def joined(name: str, matches: Any = matches, order: np.ndarray = order) -> np.ndarray:
            parts = [np.asarray(one[name])[:, :most] > 0 for _, one in matches]
            return np.concatenate([np.zeros((thresholds, 0), bool), *parts], axis=1)[:, order]

        matched, ignored = joined("dtMatches"), joined("dtIgnore")
        of = np.repeat([image for image, _ in matches], [len(one["dtScores"][:most]) for _, one in matches])
        objects = np.zeros(images)
        for image, one in matches:
            objects[image] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
        classes.append(_Ranked(matched & ~ignored, ~matched & ~ignored, of.astype(int)[order], objects))
    return classes


def _resampled(classes: Sequence[_Ranked], drawn: np.ndarray, recalls: np.ndarray) -> dict[str, float]:
    """map, map_50 and map_75 for the images that are drawn, some of them several times; {} without objects."""
    precisions = []
    for one in classes:
        times = np.bincount(drawn, minlength=len(one.objects))
        objects = one.objects @ times
        if not objects:
            continue
        hits, misses = (np.cumsum(part * times[one.of], axis=1) for part in (one.hits, one.misses))
        precision = hits / np.maximum(hits + misses, 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # that of a higher recall, if better
        padded = np.pad(precision, ((0, 0), (0, 1)))  # 0 for a recall that is not reached
        places = [np.searchsorted(row, recalls) for row in hits / objects]
        precisions.append([row[place].mean() for row, place in zip(padded, places, strict=True)])
    if not precisions:
        return {}
    means = np.mean(precisions, axis=0)
    return {"map": float(means.mean()), "map_50": float(means[0]), "map_75": float(means[5])}


def _sides(box: np.ndarray) -> list[float]:
    left, top, right, bottom = box.tolist()
    return [left, top, right - left, bottom - top]
