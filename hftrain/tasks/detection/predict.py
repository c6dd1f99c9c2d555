"""Objects in image files, as lists, as COCO results, and drawn into the images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hftrain.models.saved import Saved, load_weights, recall, refuse_nan
from hftrain.vision.sources import located

THRESHOLD = 0.5  # least score of an object, where the user names none


def detect(saved: Saved, images: Sequence[Any], batch_size: int, threshold: float = THRESHOLD) -> list[list[Any]]:
    """For each image its objects, {"label", "score", "box": [left, upper, right, lower] in pixels}, the most certain
    first, from a score of `threshold` on. An image is a path, or what a row has in its column: bytes, or the dict of
    datasets.Image.

    Raises:
        ValueError: an image that cannot be read, or is on the network; a folder without the image processor's settings.
    """
    import numpy as np

    from hftrain.data.examples import Examples
    from hftrain.tasks.detection.examples import collator
    from hftrain.tasks.detection.scoring import find, in_pixels
    from hftrain.train.evaluation import OneProcess
    from hftrain.vision.canvas import Canvas
    from hftrain.vision.pixels import saved_settings

    canvas, known = Canvas(saved_settings(saved.folder)), located(images)
    model, device = load_weights(saved, "AutoModelForObjectDetection")
    rows = [{"image": path, "boxes": [], "labels": []} for path, _ in known]
    examples = Examples(rows, np.ones(len(rows)))
    names: Any = saved.config.id2label
    collate = collator(canvas)
    result = find(OneProcess(device), model, examples, batch_size, collate=collate, labelled=False).detections
    refuse_nan((value for one in result for value in one.flat), saved.folder)
    return [
        [
            {"label": names[int(label)], "score": score, "box": [round(side, 2) for side in box]}
            for score, label, *box in in_pixels(one, image.width, image.height).tolist()
            if score >= threshold
        ]
        for one, (_, image) in zip(result, known, strict=True)
    ]


def line(objects: Sequence[Any]) -> str:
    """label TAB score TAB left upper right lower, for each object."""
    return "\t".join(
        f"{one['label']}\t{one['score']:.4f}\t{' '.join(f'{side:g}' for side in one['box'])}" for one in objects
    )


def coco_results(saved: Saved, files: Sequence[str], predictions: Sequence[Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """The objects as COCO's server and pycocotools read them. The id of an image is the number that its name is, or
    else its name; that of a category is the number in the COCO file of the training."""
    names: Any = saved.config.id2label
    numbers = {name: number for number, name in names.items()}
    ids = recall(saved.config, "category_ids") or sorted(numbers.values())
    for file, objects in zip(files, predictions, strict=True):
        stem = Path(file).stem
        for one in objects:
            left, top, right, bottom = one["box"]
            sides = [left, top, round(right - left, 2), round(bottom - top, 2)]
            image = int(stem) if stem.isdigit() else Path(file).name
            yield {"image_id": image, "category_id": ids[numbers[one["label"]]], "bbox": sides, "score": one["score"]}


def write_coco(path: Path, saved: Saved, files: Sequence[str], predictions: Sequence[Sequence[Any]]) -> None:
    path.write_text(json.dumps(list(coco_results(saved, files, predictions))), encoding="utf-8")


def draw(folder: Path, files: Sequence[str], predictions: Sequence[Sequence[Any]]) -> None:
    """Writes each image with its objects drawn in to `folder`, as PNG under its name.

    Raises:
        ValueError: two images have one name.
    """
    from hftrain.vision import read
    from hftrain.vision.sheet import draw_boxes, pngs_of

    for file, png, objects in zip(files, pngs_of(files, "--draw", folder), predictions, strict=True):
        words = [f"{one['label']} {one['score']:.2f}" for one in objects]
        draw_boxes(read(file), [one["box"] for one in objects], words).save(png)
