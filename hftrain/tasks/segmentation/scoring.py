"""One pass over examples: loss and segments, and their scores.

Shapes: B images, K classes, Q queries, H, W height and width of an image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from hftrain.data.examples import Examples
from hftrain.losses import Batch
from hftrain.metrics.detection import Boxes, measure
from hftrain.metrics.intervals import Interval, bootstrap
from hftrain.metrics.segmentation import Confusion, Quality, pixel_scores
from hftrain.tasks.segmentation.losses import SegmentLoss
from hftrain.tasks.segmentation.rows import Classes
from hftrain.train.evaluation import OneProcess, predict
from hftrain.vision.encodings import decode, encode
from hftrain.vision.masks import segment_map

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

MOST = 100  # objects of an image, as COCO counts them
CERTAIN = 0.8  # least score of a panoptic segment
WHOLE = 0.8  # share of its mask that a panoptic segment must keep beside the others


class Segment(NamedTuple):
    """A predicted segment: its class, its score (1 where pixels are labelled), its run-length encoding."""

    label: int
    score: float
    counts: str


@dataclass(frozen=True)
class Segments:
    """The loss of some examples, and the segments of each, in the examples' order, on every process."""

    loss: float
    predicted: Sequence[list[Segment]]


def segment(
    accelerator: Accelerator | OneProcess,
    model: nn.Module,
    examples: Examples,
    batch_size: int,
    *,
    collate: Callable[[list[Any]], Batch],
    loss: SegmentLoss | None,
) -> Segments:
    """One pass; without `loss`, which needs labels, the loss is NaN."""
    config = accelerator.unwrap_model(model).config
    remembered = config.hftrain
    things = [config.label2id[name] for name in remembered["things"]]

    def outputs(batch: Batch) -> list[Any]:
        if loss is None:
            inputs = {name: batch[name] for name in ("pixel_values", "pixel_mask") if name in batch}
            output, sums = model(**inputs), np.zeros(4)
        else:
            output = loss.run(model, batch)
            sums = np.array([*map(float, loss.terms(batch, output)), *loss.items(batch)]) / len(batch["sizes"])
        return [(sums, one) for one in segments(output, batch, remembered["segmentation"], things)]

    rows = predict(accelerator, examples, batch_size, collate=collate, generate=outputs)
    first, second, *items = np.sum([sums for sums, _ in rows], axis=0)
    value = first / max(1.0, items[0]) + second / max(1.0, items[1])
    return Segments(float("nan") if loss is None else float(value), [one for _, one in rows])


def segments(output: Any, batch: Batch, segmentation: str, things: Sequence[int]) -> Iterator[list[Segment]]:
    """The segments of each image, at its own size."""
    for place, (size, original) in enumerate(zip(batch["sizes"].tolist(), batch["originals"].tolist(), strict=True)):
        whole = tuple(batch["pixel_values"].shape[2:])
        if "logits" in output:
            logits = at_size(output.logits[place].float(), whole, size, original)
            yield labelled(logits.argmax(0).cpu().numpy())
            continue
        masks = at_size(output.masks_queries_logits[place].float(), whole, size, original)
        shares = output.class_queries_logits[place].float().softmax(-1)
        if segmentation == "semantic":
            summed = torch.einsum("qc,qhw->chw", shares[:, :-1], masks.sigmoid())
            yield labelled(summed.argmax(0).cpu().numpy())
        elif segmentation == "instance":
            yield objects(masks, shares)
        else:
            yield panoptic(masks, shares, things)


def at_size(values: torch.Tensor, whole: Sequence[int], size: Sequence[int], original: Sequence[int]) -> torch.Tensor:
    """(C, h, w), of which an image takes (width, height) `size` on a canvas (H, W) `whole`, at its `original` size."""
    values = values[None]
    if (size[1], size[0]) != tuple(whole):
        values = F.interpolate(values, tuple(whole), mode="bilinear", align_corners=False)[..., : size[1], : size[0]]
    return F.interpolate(values, (original[1], original[0]), mode="bilinear", align_corners=False)[0]


def labelled(labels: np.ndarray) -> list[Segment]:
    """A segment for each class that pixels (H, W) have."""
    return [Segment(int(label), 1.0, encode(labels == label)) for label in np.unique(labels)]


def objects(masks: torch.Tensor, shares: torch.Tensor) -> list[Segment]:
    """The best pairs of query and class; the score is that of the class times the mean of the mask inside of it.
    masks (Q, H, W) logits, shares (Q, K + 1)."""
    classes = shares.shape[1] - 1
    scores, places = shares[:, :-1].flatten().topk(min(MOST, shares[:, :-1].numel()))
    made = []
    for score, place in zip(scores.tolist(), places.tolist(), strict=True):
        mask = masks[place // classes]
        inside = mask > 0
        if inside.any():
            made.append(
                Segment(place % classes, score * float(mask[inside].sigmoid().mean()), encode(inside.cpu().numpy()))
            )
    return sorted(made, key=lambda one: -one.score)


def panoptic(masks: torch.Tensor, shares: torch.Tensor, things: Sequence[int]) -> list[Segment]:
    """Segments that do not overlap (arXiv 2107.06278, section 3.4): a pixel goes to the best query; those that lose
    much of their mask to others are left out; the parts of a class that is no object are one segment."""
    scores, labels = shares.max(-1)
    kept = ((labels < shares.shape[1] - 1) & (scores > CERTAIN)).nonzero()[:, 0]
    if not len(kept):
        return []
    shown = masks[kept].sigmoid()
    owner = (shown * scores[kept, None, None]).argmax(0)
    parts: list[tuple[int, float, np.ndarray]] = []
    for number, query in enumerate(kept.tolist()):
        inside = shown[number] >= 0.5
        own = (owner == number) & inside
        if not own.any() or (owner == number).sum() < WHOLE * inside.sum():
            continue
        label, pixels = int(labels[query]), own.cpu().numpy()
        same = next((place for place, one in enumerate(parts) if one[0] == label and label not in things), None)
        if same is None:
            parts.append((label, float(scores[query]), pixels))
        else:
            parts[same] = (label, max(parts[same][1], float(scores[query])), parts[same][2] | pixels)
    return [Segment(label, score, encode(pixels)) for label, score, pixels in parts]


# ---- scores


@dataclass(frozen=True)
class Scores:
    """`numbers`: the loss and the scores. `by_class`: name of a score -> (K,), NaN for classes that do not occur.
    `by_image`: of each image a number by which the hardest come first: its mean IoU."""

    numbers: dict[str, float]
    by_class: dict[str, np.ndarray]
    by_image: np.ndarray
    intervals: dict[str, Interval] = field(default_factory=dict)
    pixels: np.ndarray | None = None  # semantic: `Confusion.sums`


def score(result: Segments, rows: "Rows", classes: Classes, segmentation: str, *, report: bool = False) -> Scores:
    """The scores of the segments of `rows`; with `report` also their intervals."""
    ids = {name: number for number, name in enumerate(classes.names)}
    things = [ids[name] for name in classes.names if name in classes.things]
    confusion, quality, boxes = Confusion(len(ids)), Quality(len(ids)), Boxes()
    by_image = np.full(len(rows), np.nan)
    counted: list[np.ndarray] = []  # `sums` of each image
    for place, (row, predicted) in enumerate(zip(rows, result.predicted, strict=True)):
        height, width = row["height"], row["width"]
        truth = true_map(row)
        labels = [ids.get(one["label"], -1) for one in row["segments"]]
        masks = [decode(one.counts, height, width) for one in predicted]
        if segmentation == "semantic":
            own = Confusion(len(ids))
            own.add(np.array([-1, *labels])[truth], label_map(predicted, masks, truth.shape))
            confusion.add_counts(own.counts)
            by_image[place] = own.numbers()["mean_iou"]
            counted.append(own.sums)
        elif segmentation == "panoptic":
            numbers = np.zeros(truth.shape, np.int64)
            for number, pixels in enumerate(masks, 1):
                numbers[pixels] = number
            crowds = [one["crowd"] for one in row["segments"]]
            alone = Quality(len(ids))
            alone.add(truth, labels, crowds, numbers, [segment.label for segment in predicted])
            by_image[place] = alone.numbers(things).get("pq", np.nan)
            quality.add_sums(alone.sums)
            counted.append(alone.sums)
        else:
            kept = [(number, one) for number, one in enumerate(row["segments"], 1) if one["label"] in ids]
            true = [(one, one["counts"] or encode(truth == number)) for number, one in kept]
            boxes.add_masks(
                [counts for _, counts in true],
                [ids[one["label"]] for one, _ in true],
                [one["crowd"] for one, _ in true],
                [one["area"] for one, _ in true],
                [(segment.label, segment.score, segment.counts) for segment in predicted],
                (height, width),
            )
            by_image[place] = covered([decode(counts, height, width) for _, counts in true], masks, predicted)

    def numbers_of(sums: np.ndarray) -> dict[str, float]:
        if segmentation == "semantic":
            return {name: value for name, value in pixel_scores(sums).items() if value == value}
        drawn = Quality(len(ids))
        drawn.add_sums(sums)
        return drawn.numbers(things)

    intervals: dict[str, Interval] = {}
    if report and counted:
        of_images = np.array(counted)

        def drawn_numbers(drawn: np.ndarray) -> dict[str, float]:
            return numbers_of(np.tensordot(np.bincount(drawn, minlength=len(of_images)), of_images, 1))

        intervals = bootstrap(drawn_numbers, len(of_images))
    if segmentation == "semantic":
        scores = {"loss": result.loss} | confusion.numbers()
        return Scores(scores, {"IoU": confusion.ious}, by_image, intervals, confusion.sums)
    if segmentation == "panoptic":
        values = quality.by_class
        by_class = {name: values[:, place] for place, name in enumerate(("PQ", "SQ", "RQ"))}
        return Scores({"loss": result.loss} | quality.numbers(things), by_class, by_image, intervals)
    measured = measure(boxes, len(ids), "segm", report=report)
    known = {name: value for name, value in measured.numbers.items() if value == value}
    by_class = {"AP": measured.average_precisions, "AP50": measured.at_half}
    return Scores({"loss": result.loss} | known, by_class, by_image, measured.intervals)


def true_map(row: Any) -> np.ndarray:
    """(H, W): 0 for void, else the number of a segment of the row, from 1."""
    segments = row["segments"]
    values, counts = [one["value"] for one in segments], [one["counts"] for one in segments]
    return segment_map(row["mask"], values, counts, row["height"], row["width"]).astype(np.int64)


def label_map(predicted: Sequence[Segment], masks: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) the class of each pixel; 0 where no segment is."""
    result = np.zeros(shape, np.int64)
    for one, pixels in zip(predicted, masks, strict=True):
        result[pixels] = one.label
    return result


def covered(truth: Sequence[np.ndarray], masks: Sequence[np.ndarray], predicted: Sequence[Segment]) -> float:
    """The mean over true objects of the best IoU with a mask of a score of at least one half; NaN without objects."""
    certain = [pixels for pixels, one in zip(masks, predicted, strict=True) if one.score >= 0.5]
    best = [max(((own & pixels).sum() / (own | pixels).sum() for pixels in certain), default=0.0) for own in truth]
    return float(np.mean(best)) if best else float("nan")
