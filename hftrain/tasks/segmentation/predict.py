"""Segments of image files: as run-length encodings, as PNG files, and drawn into the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hftrain.models.saved import Saved, load_weights, recall
from hftrain.vision.sources import located

THRESHOLD = 0.5  # least score of an object, where the user names none


def segment(saved: Saved, images: Sequence[Any], batch_size: int, threshold: float = THRESHOLD) -> list[list[Any]]:
    """For each image its segments, {"label", "score", "area", "segmentation": {"size": [height, width], "counts":
    run-length encoding as COCO writes it}}, objects from a score of `threshold` on with the most certain first. An
    image is a path, or what a row has in its column: bytes, or the dict of datasets.Image.

    Raises:
        ValueError: an image that cannot be read, or is on the network; a folder that hftrain's recipe has not written.
    """
    import numpy as np
    from pycocotools import mask

    from hftrain.data.examples import Examples
    from hftrain.tasks.segmentation.config import SETS, auto_class
    from hftrain.tasks.segmentation.examples import collator
    from hftrain.tasks.segmentation.scoring import segment as segments_of
    from hftrain.train.evaluation import OneProcess
    from hftrain.vision.canvas import Canvas
    from hftrain.vision.pixels import saved_settings

    canvas, segmentation = Canvas(saved_settings(saved.folder)), recall(saved.config, "segmentation")
    if segmentation is None:
        raise ValueError(f"{saved.folder} was not trained by the recipe segment: load it with transformers' pipeline")
    known = located(images)
    kind = saved.config.model_type
    model, device = load_weights(saved, auto_class(kind))
    nothing: dict[str, Any] = {"mask": "", "values": [], "counts": [], "labels": [], "things": []}
    rows = [{"image": path, "height": one.height, "width": one.width, **nothing} for path, one in known]
    examples = Examples(rows, np.ones(len(rows)))
    collate = collator(canvas, segmentation, kind in SETS)
    result = segments_of(OneProcess(device), model, examples, batch_size, collate=collate, loss=None).predicted
    names: Any = saved.config.id2label

    def described(label: int, score: float, counts: str, size: list[int]) -> dict[str, Any]:
        coded = {"size": size, "counts": counts}
        area = int(mask.area({**coded, "counts": counts.encode()}))
        return {"label": names[label], "score": score, "area": area, "segmentation": coded}

    return [
        [described(*one, [facts.height, facts.width]) for one in predicted if one.score >= threshold]
        for predicted, (_, facts) in zip(result, known, strict=True)
    ]


def line(segments: Sequence[Any]) -> str:
    """label TAB score TAB pixels, for each segment."""
    return "\t".join(f"{one['label']}\t{one['score']:.4f}\t{one['area']}" for one in segments)


def write_masks(folder: Path, saved: Saved, files: Sequence[str], predictions: Sequence[Sequence[Any]]) -> None:
    """Writes a PNG for each image: of semantic segmentation the number of each pixel's class, else that of its segment,
    from 1 in the order of the predictions, with 0 where none is.

    Raises:
        ValueError: two images have one name.
    """
    import numpy as np

    from hftrain.vision import read
    from hftrain.vision.encodings import decode
    from hftrain.vision.masks import png
    from hftrain.vision.sheet import pngs_of

    pictures = pngs_of(files, "--masks", folder)
    names: Any = saved.config.id2label
    numbers = {name: number for number, name in names.items()}
    semantic = recall(saved.config, "segmentation") == "semantic"
    for file, picture, segments in zip(files, pictures, predictions, strict=True):
        height, width = segments[0]["segmentation"]["size"] if segments else read(file).size[::-1]
        pixels = np.zeros((height, width), np.int64)
        for place, one in reversed(list(enumerate(segments, 1))):  # the most certain object is written last
            inside = decode(one["segmentation"]["counts"], height, width)
            pixels[inside] = numbers[one["label"]] if semantic else place
        picture.write_bytes(png(pixels))


def draw(folder: Path, files: Sequence[str], predictions: Sequence[Sequence[Any]]) -> None:
    """Writes each image with its segments over it to `folder`, as PNG under its name.

    Raises:
        ValueError: two images have one name.
    """
    from hftrain.vision import read
    from hftrain.vision.encodings import decode
    from hftrain.vision.sheet import draw_masks, pngs_of

    for file, png, segments in zip(files, pngs_of(files, "--draw", folder), predictions, strict=True):
        masks = [decode(one["segmentation"]["counts"], *one["segmentation"]["size"]) for one in segments]
        draw_masks(read(file), masks, [one["label"] for one in segments]).save(png)
