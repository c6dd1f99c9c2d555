"""The report and the model card of a segmentation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.data.splits import sizes
from hftrain.metrics.segmentation import usual_class
from hftrain.report import Report, Table, predict_usage
from hftrain.report.charts import histogram
from hftrain.report.described import describe_split, evenly, share
from hftrain.report.formats import format_number
from hftrain.report.scores import never_predicted, no_better, nothing_found
from hftrain.tasks.segmentation.config import SegmentationConfig
from hftrain.tasks.segmentation.rows import Classes
from hftrain.tasks.segmentation.scoring import Scores, Segment, Segments, score, true_map
from hftrain.vision import read
from hftrain.vision.encodings import decode
from hftrain.vision.sheet import draw_masks, thumbnail

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

SHOWN = 0.5  # score from which on a picture shows a segment
SAMPLES = 8  # pictures
HARDEST = 8
CLASSES = 30  # maximum classes in the table of the data
EDGE = 192  # pixels of a picture's longer side
HARD = {"semantic": "mean IoU", "panoptic": "PQ", "instance": "mean IoU of its objects"}


def summarize(config: SegmentationConfig, rows: "Mapping[str, Rows]", classes: Classes, result: Segments) -> Report:
    """What the report shows: the scores of the test rows, and the data."""
    scores, names = score(result, rows["test"], classes, config.segmentation, report=True), classes.names
    listed = ": " + ", ".join(names) if len(names) <= 12 else ""
    known = scores.by_image[~np.isnan(scores.by_image)]
    title = HARD[config.segmentation]
    return Report(
        title=f"{config.segmentation.capitalize()} segmentation of {Path(config.trained_on).name}",
        task="image-segmentation",
        metric=config.scored_by,
        scores=scores.numbers,
        usage=predict_usage(config, rows["test"][0]["image"]),
        lead=f"Segments images into {len(names)} classes{listed}. Rows: {sizes(rows)}.",
        data={name: describe(split) for name, split in rows.items()},
        figures=[
            histogram(
                "by_image", f"{title[0].upper()}{title[1:]} of each test image", known, x_label=title, unit="images"
            )
        ],
        tables=[
            per_class(scores, rows["test"], names),
            pictures("Pictures", rows["test"], names, result, evenly(len(rows["test"]), SAMPLES), scores),
            pictures("Hardest images", rows["test"], names, result, hardest(scores), scores),
        ],
        **judge(config, scores, rows["train"], names),
    )


def judge(config: SegmentationConfig, scores: Scores, training: "Rows", names: Sequence[str]) -> dict[str, Any]:
    """`baseline`, `intervals` and `remarks` for `publish`. The baseline calls every pixel the class that most training
    pixels have, or finds no segment."""
    if scores.pixels is None:
        return nothing_found(config.scored_by, scores.numbers, scores.intervals)
    pixels = Counter[str]()
    for segments in training["segments"]:
        for one in segments:
            pixels[one["label"]] += one["area"]
    shares = np.array([pixels[name] for name in names])
    guess = usual_class(shares, scores.pixels)
    evidence: dict[str, Any] = {
        "baseline": {f"test_{name}": value for name, value in guess.items() if value == value},
        "intervals": {f"test_{name}": interval for name, interval in scores.intervals.items()},
    }
    results = {f"test_{name}": value for name, value in scores.numbers.items()}
    _, true, predicted = scores.pixels
    missing = {name: int(true[i]) for i, name in enumerate(names) if true[i] and not predicted[i]}
    always = f"always {names[int(shares.argmax())]!r}"
    return evidence | {
        "remarks": [
            *never_predicted("pixels", missing, int(true.sum())),
            *no_better("test_mean_iou", results, **evidence, guess=always),
        ]
    }


def describe(rows: "Rows") -> dict[str, Any]:
    """The table of a split: its images, how many were left out or leaked, their sizes, the segments of each class."""
    width, height = np.median(np.array([rows["width"][:], rows["height"][:]]), axis=1).astype(int)
    labels = [one["label"] for segments in rows["segments"] for one in segments]
    details: dict[str, Any] = {
        "pixels, median": f"{width} x {height}",
        "segments": len(labels),
        "images without segments": share(sum(not segments for segments in rows["segments"]), len(rows)),
        "crowds": sum(one["crowd"] for segments in rows["segments"] for one in segments),
    }
    if len(set(labels)) <= CLASSES:
        details |= {f"images with {name}": share(labels.count(name), len(rows)) for name in sorted(set(labels))}
    return describe_split(rows, details, unit="images", inputs="contents")


def per_class(scores: Scores, rows: "Rows", names: Sequence[str]) -> Table:
    labels = [one["label"] for segments in rows["segments"] for one in segments]
    first = next(iter(scores.by_class.values()))
    lines = [
        {
            "class": name,
            **{title: format_number(values[number]) for title, values in scores.by_class.items()},
            "segments": labels.count(name),
        }
        for number, name in enumerate(names)
        if not np.isnan(first[number])
    ]
    return Table("By class", lines, note="segments: in the test rows.")


def hardest(scores: Scores) -> list[int]:
    known = np.flatnonzero(~np.isnan(scores.by_image))
    return [int(place) for place in known[np.argsort(scores.by_image[known], kind="stable")][:HARDEST]]


def pictures(
    title: str, rows: "Rows", names: Sequence[str], result: Segments, places: Sequence[int], scores: Scores
) -> Table:
    """Test images with their true segments, beside the predicted ones."""
    lines = []
    for place in places:
        row, predicted = rows[place], [one for one in result.predicted[place] if one.score >= SHOWN]
        image, truth = read(row["image"]), true_map(row)
        true = [truth == number for number in range(1, len(row["segments"]) + 1)]
        words = [one["label"] for one in row["segments"]]
        lines.append(
            {
                "truth": thumbnail(draw_masks(image, true, words), EDGE),
                "predicted": thumbnail(draw_masks(image, *shown_masks(predicted, names, image)), EDGE),
                "score": format_number(scores.by_image[place]),
                "file": row["image"],
            }
        )
    return Table(title, lines)


def shown_masks(predicted: Sequence[Segment], names: Sequence[str], image: Any) -> tuple[list[np.ndarray], list[str]]:
    masks = [decode(one.counts, image.height, image.width) for one in predicted]
    return masks, [names[one.label] for one in predicted]
