"""Scores of detected boxes and masks as COCO defines them, by pycocotools.

Shapes: G true objects of an image, D detections of an image, K classes. A box is (left, upper, right, lower).
"""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

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


def measure(boxes: Boxes, classes: int, kind: Literal["bbox", "segm"] = "bbox") -> Scores:
    """COCO's scores of boxes, or of masks ("segm"); NaN if there are no true objects, as for a size that none has."""
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
    stats = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; of all sizes, 100 detections
    known = np.where(precision < 0, np.nan, precision)
    return Scores(
        {name: float(stats[place]) for name, place in STATS.items()},
        known.mean(axis=(0, 1)),
        known[0].mean(axis=0),
        known[0].T,
    )


def _sides(box: np.ndarray) -> list[float]:
    left, top, right, bottom = box.tolist()
    return [left, top, right - left, bottom - top]
