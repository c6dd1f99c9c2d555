"""The report and the model card of a classification of images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.labels.report import Tested, count_labels, report_labels
from hftrain.report import Report, predict_usage
from hftrain.report.charts import histogram
from hftrain.report.described import describe_split
from hftrain.tasks.image_classification.config import ImageClassificationConfig
from hftrain.vision import read
from hftrain.vision.sheet import thumbnail

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


def summarize(config: ImageClassificationConfig, tested: Tested) -> Report:
    """What the report shows: the scores of the test rows, and the data."""
    rows, train = tested.rows, tested.rows["train"]
    sides = np.maximum(train["width"][:], train["height"][:])
    return report_labels(
        config,
        tested,
        task="image-classification",
        what="an image",
        usage=usage(config, rows["test"][0]["image"]),
        data={name: describe(split, tested.names, tested.ids) for name, split in rows.items()},
        show=show,
        more=[histogram("sizes", "Longer sides of the training images", sides, x_label="pixels")],
    )


def describe(rows: "Rows", names: Sequence[str], ids: Mapping[str, int]) -> dict[str, Any]:
    """The table of a split: its rows, how many were left out or leaked, the sizes of images, the rows of each class."""
    sides = np.array([rows["width"][:], rows["height"][:]])
    sizes = [f"{width} x {height}" for width, height in (np.median(sides, axis=1).astype(int), sides.max(axis=1))]
    details: dict[str, Any] = {"pixels, median": sizes[0], "pixels, largest": sizes[1]}
    return describe_split(rows, details | count_labels(rows, names, ids), unit="images", inputs="contents")


def show(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"image": thumbnail(read(row["image"])), "file": row["image"]}


def usage(config: ImageClassificationConfig, image: str) -> str:
    """Python code that loads the trained model and classifies `image`."""
    if not config.use_peft and config.model_name_or_path is not None:
        folder = config.hub_model_id or config.output_dir
        return f"""from transformers import pipeline

classify = pipeline("image-classification", model={folder!r})
print(classify({image!r}))"""
    return predict_usage(config, image)
