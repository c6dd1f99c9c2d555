"""Images with boxes as examples, which are decoded when a batch needs them, and their batches.

Shapes: B examples of a batch, H, W height and width that the model reads, N objects of the batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from hftrain.data.examples import Examples
from hftrain.data.media import fingerprint
from hftrain.data.rows import dataset
from hftrain.losses import Batch
from hftrain.tasks.detection.config import DetectionConfig
from hftrain.vision import read
from hftrain.vision.canvas import Canvas, Jitter

if TYPE_CHECKING:
    from PIL import Image

    from hftrain.data.rows import Rows


def make_examples(rows: "Rows", names: Sequence[str]) -> Examples:
    """Rows as examples {"image": path, "boxes": corners in pixels, "labels": numbers of the classes}, without crowds,
    which are not learnt. Their fingerprint depends on the contents of the images, not on their places."""
    ids = {name: number for number, name in enumerate(names)}
    objects = [[item for item in row if not item["crowd"]] for row in rows["objects"]]
    boxes = [[item["box"] for item in row] for row in objects]
    labels = [[ids[item["label"]] for item in row] for row in objects]
    columns = {
        "boxes": pa.array(boxes, pa.list_(pa.list_(pa.float64()))),
        "labels": pa.array(labels, pa.list_(pa.int64())),
    }
    table = pa.table({"image": rows["image"][:], **columns})
    return Examples(dataset(table), np.ones(len(rows)), rows=rows, fingerprint=fingerprint(rows, boxes, labels))


def augmentation(
    config: DetectionConfig, examples: Examples, canvas: Canvas
) -> Callable[[int, int], Callable[[Mapping[str, Any]], dict[str, Any]]]:
    """(step, steps) -> what makes of an example {"pixels": (3, H, W), "size", "boxes", "labels"}, a little different
    each time; the boxes follow. The last steps have no mosaic. What is open is chosen and is then in `config`."""
    whole = Jitter(
        config.mosaic, (config.smallest_scale, config.largest_scale), config.choose_flip(), config.colour_jitter
    )
    closing = replace(whole, mosaic=0.0)

    def other() -> tuple[Any, np.ndarray, np.ndarray]:
        example = examples[np.random.randint(len(examples))]
        return read(example["image"]), boxes_of(example), np.array(example["labels"], np.int64)

    def augment(example: Mapping[str, Any], vary: Jitter, canvas: Canvas) -> dict[str, Any]:
        image, boxes, kept, joined = vary(read(example["image"]), boxes_of(example), other)
        labels = np.concatenate([np.array(example["labels"], np.int64), *joined])[kept]
        return shown(canvas, image, boxes, labels)

    def at(step: int, steps: int) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        vary = closing if step >= round(steps * (1 - config.closing_share)) else whole
        return partial(augment, vary=vary, canvas=canvas.at_step(step, config.seed, config.multi_scale))

    return at


def boxes_of(example: Mapping[str, Any]) -> np.ndarray:
    return np.array(example["boxes"], np.float64).reshape(-1, 4)


def shown(canvas: Canvas, image: "Image.Image", boxes: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """An image with its boxes (centre x, centre y, width, height) as shares of it."""
    whole = np.array([image.width, image.height] * 2, np.float64)
    left, top, right, bottom = (boxes / whole).T
    picture, size = canvas.place(image)
    centres = np.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], axis=1)
    return {"pixels": canvas.tensor(picture), "size": size, "boxes": centres, "labels": labels}


def collator(canvas: Canvas) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    return partial(collate, canvas=canvas)


def collate(examples: Sequence[Mapping[str, Any]], *, canvas: Canvas) -> Batch:
    """pixel_values (B, 3, H, W) float32; of padded images pixel_mask (B, H, W); boxes (N, 4) float32 as shares (centre
    x, centre y, width, height); class_labels (N,); objects (B,) how many of the N each image has."""
    ready = [
        example
        if "pixels" in example
        else shown(canvas, read(example["image"]), boxes_of(example), np.array(example["labels"], np.int64))
        for example in examples
    ]
    batch = {
        "pixel_values": torch.stack([example["pixels"] for example in ready]),
        "boxes": torch.from_numpy(np.concatenate([example["boxes"] for example in ready]).astype(np.float32)),
        "class_labels": torch.from_numpy(np.concatenate([example["labels"] for example in ready])),
        "objects": torch.tensor([len(example["labels"]) for example in ready]),
    }
    if canvas.padded:
        batch["pixel_mask"] = torch.stack([canvas.mask(example["pixels"], example["size"]) for example in ready])
    return batch
