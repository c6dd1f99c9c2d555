"""The report and the model card of a detection."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.data.splits import sizes
from hftrain.metrics.detection import Scores
from hftrain.report import Report, Table, predict_usage
from hftrain.report.charts import histogram
from hftrain.report.described import describe_split, evenly, share
from hftrain.report.figures import Curves, Figure, Series
from hftrain.report.formats import format_number
from hftrain.report.scores import nothing_found
from hftrain.tasks.detection.config import DetectionConfig
from hftrain.tasks.detection.scoring import Found, in_pixels, numbers, score
from hftrain.vision import read
from hftrain.vision.sheet import draw_boxes, thumbnail

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

SHOWN = 0.5  # score from which on a picture and the tables show a detection
SAMPLES = 12  # pictures
WORST = 30  # rows of the tables of misses and of false alarms
LINES = 6  # classes in the chart of precision and recall
CLASSES = 30  # maximum classes in the table of the data
HIT = 0.5  # IoU from which on a detection has result an object
EDGE = 192  # pixels of a picture's longer side


def summarize(config: DetectionConfig, rows: "Mapping[str, Rows]", names: Sequence[str], result: Found) -> Report:
    """What the report shows: the scores of the test rows, and the data."""
    scores = score(result, rows["test"], names, report=True)
    values = numbers(result, scores)
    listed = ": " + ", ".join(names) if len(names) <= 10 else ""
    detected = [
        in_pixels(one, row["width"], row["height"]) for one, row in zip(result.detections, rows["test"], strict=True)
    ]
    return Report(
        title=f"Detection of {Path(config.trained_on).name}",
        task="object-detection",
        metric="map",
        scores=values,
        usage=predict_usage(config, rows["test"][0]["image"]),
        lead=f"Finds objects of {len(names)} classes in an image{listed}. Rows: {sizes(rows)}.",
        data={name: describe(split) for name, split in rows.items()},
        figures=figures(scores, rows["train"], names),
        tables=[
            per_class(scores, rows["test"], names),
            pictures(rows["test"], names, detected),
            *mistakes(rows["test"], names, detected),
        ],
        **nothing_found("map", values, scores.intervals),
    )


def describe(rows: "Rows") -> dict[str, Any]:
    """The table of a split: its images, how many were left out or leaked, their sizes, the objects of each class."""
    sides = np.array([rows["width"][:], rows["height"][:]])
    width, height = np.median(sides, axis=1).astype(int)
    labels = [item["label"] for objects in rows["objects"] for item in objects]
    details: dict[str, Any] = {
        "pixels, median": f"{width} x {height}",
        "objects": len(labels),
        "images without objects": share(sum(not objects for objects in rows["objects"]), len(rows)),
        "crowds": sum(item["crowd"] for objects in rows["objects"] for item in objects),
    }
    if len(set(labels)) <= CLASSES:
        details |= {f"objects {name}": share(labels.count(name), len(labels)) for name in sorted(set(labels))}
    return describe_split(rows, details, unit="images", inputs="contents")


def figures(scores: Scores, train: "Rows", names: Sequence[str]) -> list[Figure]:
    """Precision over recall of the classes, and the sizes of the training boxes."""
    known = [number for number in range(len(names)) if not np.isnan(scores.at_half[number])]
    lowest = sorted(known, key=lambda number: scores.at_half[number])[:LINES]
    recalls = np.linspace(0, 1, scores.curves.shape[1]).tolist()
    series = [
        Series(f"{names[number]} ({scores.at_half[number]:.3f})", recalls, scores.curves[number].tolist())
        for number in lowest
    ]
    note = "At IoU 0.5; in brackets the average precision."
    note += f" The {LINES} lowest of {len(known)} classes." if len(known) > LINES else ""
    sides = [
        max(item["box"][2] - item["box"][0], item["box"][3] - item["box"][1])
        for objects in train["objects"]
        for item in objects
    ]
    return [
        Curves(
            "precision_recall",
            "Precision and recall",
            series,
            "precision",
            "recall",
            y_log=False,
            y_range=(0, 1),
            note=note,
        ),
        histogram("box_sizes", "Longer sides of the training boxes", np.array(sides), x_label="pixels", unit="boxes"),
    ]


def per_class(scores: Scores, rows: "Rows", names: Sequence[str]) -> Table:
    labels = [item["label"] for objects in rows["objects"] for item in objects]
    lines = [
        {
            "class": name,
            "AP": format_number(scores.average_precisions[number]),
            "AP50": format_number(scores.at_half[number]),
            "objects": labels.count(name),
        }
        for number, name in enumerate(names)
        if not np.isnan(scores.at_half[number])
    ]
    return Table("By class", lines, note="AP: mean over IoU 0.5 to 0.95, AP50: at 0.5; objects: in the test rows")


def pictures(rows: "Rows", names: Sequence[str], detected: Sequence[np.ndarray]) -> Table:
    """Test images with their true boxes, beside the detections."""
    lines = []
    for place in evenly(len(rows), SAMPLES):
        row, certain = rows[place], detected[place][detected[place][:, 0] >= SHOWN]
        image, objects = read(row["image"]), row["objects"]
        words = [f"{names[int(one[1])]} {one[0]:.2f}" for one in certain]
        lines.append(
            {
                "truth": thumbnail(draw_boxes(image, [o["box"] for o in objects], [o["label"] for o in objects]), EDGE),
                "detected": thumbnail(draw_boxes(image, [one[2:] for one in certain], words), EDGE),
                "file": row["image"],
            }
        )
    return Table("Pictures", lines, note=f"Detections with a score of {SHOWN} or more.")


def mistakes(rows: "Rows", names: Sequence[str], detected: Sequence[np.ndarray]) -> list[Table]:
    """The objects that no detection of their class covers, largest first, and the most certain detections that cover no
    object of their class."""
    misses: list[tuple[float, int, Any, str]] = []
    alarms: list[tuple[float, int, Any, str]] = []
    for place, (row, result) in enumerate(zip(rows, detected, strict=True)):
        certain = result[result[:, 0] >= SHOWN]
        covers = overlaps([item["box"] for item in row["objects"]], certain[:, 2:])
        for number, item in enumerate(row["objects"]):
            same = certain[:, 1] == names.index(item["label"])
            if not item["crowd"] and not (covers[number] * same >= HIT).any():
                misses.append((item["area"], place, item["box"], item["label"]))
        for number, one in enumerate(certain):
            same = np.array([item["label"] == names[int(one[1])] for item in row["objects"]], bool)
            if not (covers[:, number] * same >= HIT).any():
                alarms.append((one[0], place, one[2:], names[int(one[1])]))
    return [
        Table("Misses", shown(rows, misses, "area"), note="Objects without a detection of their class, by size."),
        Table("False alarms", shown(rows, alarms, "score"), note="Detections without an object of their class."),
    ]


def shown(rows: "Rows", cases: Sequence[tuple[float, int, Any, str]], name: str) -> list[dict[str, Any]]:
    """Rows of a table of mistakes, the highest `name` first."""
    ordered = sorted(cases, key=lambda case: -case[0])[:WORST]
    return [
        {
            "image": thumbnail(draw_boxes(read(rows[place]["image"]), [box], [label]), EDGE),
            "class": label,
            name: format_number(value),
            "file": rows[place]["image"],
        }
        for value, place, box, label in ordered
    ]


def overlaps(boxes: Sequence[Sequence[float]], others: np.ndarray) -> np.ndarray:
    """(G, D) intersection over union of boxes (G, 4) and (D, 4)."""
    left = np.array(boxes, np.float64).reshape(-1, 1, 4)
    right = others.reshape(1, -1, 4)
    sides = np.minimum(left[..., 2:], right[..., 2:]) - np.maximum(left[..., :2], right[..., :2])
    common = sides.clip(0).prod(-1)
    areas = [(part[..., 2:] - part[..., :2]).prod(-1) for part in (left, right)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)
