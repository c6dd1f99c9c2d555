"""The report and the model card of a model that reconstructs images."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import Accelerator
from torch import nn

from hftrain.data.examples import Examples
from hftrain.data.splits import sizes
from hftrain.losses import Batch
from hftrain.metrics.intervals import Interval, wilson
from hftrain.report import Report, Table, predict_usage
from hftrain.report.charts import histogram
from hftrain.report.described import describe_split, evenly, share
from hftrain.tasks.image_pretraining.config import ImagePretrainingConfig
from hftrain.tasks.image_pretraining.scoring import reconstruct
from hftrain.vision import Pixels
from hftrain.vision.sheet import thumbnail

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

SAMPLES = 12  # reconstructed images
EDGE = 144  # pixels of their longer side
METRICS = {
    "probe_accuracy": "the linear probe",
    "knn_accuracy": "the nearest neighbours",
    "pixels_accuracy": "a linear probe of the pixels themselves",
}


def summarize(
    config: ImagePretrainingConfig,
    rows: "Mapping[str, Rows]",
    scores: Mapping[str, float],
    pictures: Sequence[Mapping[str, Any]],
) -> Report:
    """What the report shows: the scores of the test rows, what is hidden and reconstructed, and the data."""
    train = rows["train"]
    sides = np.maximum(train["width"][:], train["height"][:])
    probed = "probe_accuracy" in scores
    return Report(
        title=f"Pretrained on {config.trained_on}",
        task="image-feature-extraction",
        metric="probe_accuracy" if probed else "loss",
        scores=scores,
        baseline=majority(rows) if probed else {},
        intervals=intervals(rows, scores),
        usage=predict_usage(config, rows["test"][0]["image"]),
        lead=f"Reconstructs the hidden {config.mask_ratio:.0%} of an image. Images: {sizes(rows)}.",
        data={name: describe(split) for name, split in rows.items()},
        figures=[histogram("sizes", "Longer sides of the training images", sides, x_label="pixels")],
        tables=[Table("Reconstructions", pictures, note="Test images. The model saw the part that is not grey.")],
        remarks=remarks(scores),
    )


def majority(rows: "Mapping[str, Rows]") -> dict[str, float]:
    """The accuracy of the most frequent class."""
    known = [label for label in rows["train"]["label"] if label is not None]
    usual = max(set(known), key=known.count)
    truth = [label for label in rows["test"]["label"] if label is not None]
    value = truth.count(usual) / len(truth)
    return {"test_probe_accuracy": value, "test_knn_accuracy": value}


def intervals(rows: "Mapping[str, Rows]", scores: Mapping[str, float]) -> dict[str, Interval]:
    known = sum(label is not None for label in rows["test"]["label"])
    return {f"test_{name}": wilson(round(scores[name] * known), known) for name in METRICS if name in scores}


def remarks(scores: Mapping[str, float]) -> list[str]:
    if scores.get("probe_accuracy", 1.0) > scores.get("pixels_accuracy", 0.0):
        return []
    return [
        f"A linear probe of the features ({scores['probe_accuracy']:.1%}) is not better than one of the pixels "
        f"({scores['pixels_accuracy']:.1%}): train longer, or on more images."
    ]


def describe(rows: "Rows") -> dict[str, Any]:
    """The table of a split: its images, how many were left out or leaked, their sizes and classes."""
    sides = np.array([rows["width"][:], rows["height"][:]])
    median, largest = (f"{width} x {height}" for width, height in (np.median(sides, axis=1).astype(int), sides.max(1)))
    labels = [label for label in rows["label"] if label is not None]
    details = {
        "pixels, median": median,
        "pixels, largest": largest,
        "images with a class": share(len(labels), len(rows)),
        "classes": len(set(labels)),
    }
    return describe_split(rows, details, unit="images", inputs="contents")


def pictures(
    accelerator: Accelerator,
    model: nn.Module,
    examples: Examples,
    pixels: Pixels,
    *,
    collate: Callable[..., Batch],
) -> list[dict[str, Any]]:
    """Rows of a table: images as they are, as the model sees them, and as it reconstructs them. Every process calls."""
    shown = Examples(
        [examples[place] for place in evenly(len(examples), SAMPLES)], np.ones(min(SAMPLES, len(examples)))
    )
    return [
        {name: thumbnail(pixels.picture(picture), EDGE) for name, picture in triple.items()}
        for triple in reconstruct(accelerator, model, shown, SAMPLES, collate=collate)
    ]
