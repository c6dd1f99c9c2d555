"""Images as examples, which are decoded when a batch needs them, and their batches.

Shapes: B examples of a batch, H, W height and width that the model reads, K classes or labels (1 for regression).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from hftrain.data.examples import Examples
from hftrain.data.media import fingerprint
from hftrain.data.rows import dataset
from hftrain.labels.classes import ID_TYPE, batch_labels, number_label
from hftrain.losses import Batch
from hftrain.tasks.image_classification.config import ImageClassificationConfig
from hftrain.vision import Augmentation, Pixels, read
from hftrain.vision.augment import mix, paste
from hftrain.vision.batches import stack_pixels

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


def make_examples(rows: "Rows", ids: Mapping[str, int], config: ImageClassificationConfig) -> Examples:
    """Rows as examples {"image": path, "labels": a class's number, the numbers of all labels, or the number to
    predict}. Their fingerprint depends on the contents of the images, not on their places."""
    labels = [number_label(label, ids) for label in rows["label"]]
    table = pa.table({"image": rows["image"][:], "labels": pa.array(labels, ID_TYPE[config.problem_type])})
    return Examples(dataset(table), np.ones(len(rows)), rows=rows, fingerprint=fingerprint(rows, labels))


def augmentation(
    config: ImageClassificationConfig, examples: Examples, pixels: Pixels, classes: int
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """example -> {"pixels": (3, H, W), "labels"}: the picture a little different each time, and with MixUp or CutMix
    joined with that of another example; its label is then (K,), the share of each class. What is open is chosen and
    is then in `config`."""
    crop_area, flip = config.choose_variation()
    vary = Augmentation(crop_area, flip, config.colour_jitter, config.auto_augment, config.random_erasing)
    ways = [(mix, config.mixup_alpha), (paste, config.cutmix_alpha)]
    ways = [(join, alpha) for join, alpha in ways if alpha]

    def augment(example: Mapping[str, Any]) -> dict[str, Any]:
        picture = vary(read(example["image"]), pixels)
        if not ways:
            return {"pixels": picture, "labels": example["labels"]}
        other = examples[np.random.randint(len(examples))]
        join, alpha = ways[np.random.randint(len(ways))]
        picture, share = join(picture, vary(read(other["image"]), pixels), alpha)
        shares = np.zeros(classes, np.float32)
        for label, part in ((example["labels"], share), (other["labels"], 1 - share)):
            shares[label] += part
        return {"pixels": picture, "labels": shares}

    return augment


def collator(pixels: Pixels, problem: str, classes: int) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    return partial(collate, pixels=pixels, problem=problem, classes=classes)


def collate(examples: Sequence[Mapping[str, Any]], *, pixels: Pixels, problem: str, classes: int) -> Batch:
    """pixel_values (B, 3, H, W) float32, of examples that are not augmented as for evaluation; labels (B,) int64, (B,
    K) shares of classes, (B, K) 0.0 or 1.0 of several labels, (B,) float32 of numbers."""

    labels = [example["labels"] for example in examples]
    mixed = isinstance(labels[0], np.ndarray)
    targets = torch.from_numpy(np.stack(labels)) if mixed else batch_labels(labels, problem, classes)
    return {"pixel_values": stack_pixels(examples, pixels), "labels": targets}
