"""Images as examples, which patches of each are hidden, and their batches.

Shapes: B examples of a batch, H, W height and width that the model reads, N patches of an image, row by row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from hftrain.data.examples import Examples
from hftrain.data.media import fingerprint
from hftrain.data.rows import dataset
from hftrain.losses import Batch
from hftrain.tasks.image_pretraining.config import ImagePretrainingConfig
from hftrain.vision import Augmentation, Pixels, read
from hftrain.vision.batches import stack_pixels

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


def make_examples(rows: "Rows") -> Examples:
    """Rows as examples {"image": path}. Their fingerprint depends on the contents of the images, not on their
    places."""
    table = dataset(pa.table({"image": rows["image"][:]}))
    return Examples(table, np.ones(len(rows)), rows=rows, fingerprint=fingerprint(rows))


@dataclass(frozen=True)
class Hiding:
    """Hides squares of an image, drawn by NumPy's global generator.

    Args:
        side: patches of a row of the image.
        square: patches of a row of a hidden square; a divisor of `side`.
        count: squares that are hidden.
    """

    side: int
    square: int
    count: int

    def draw(self) -> np.ndarray:
        """(N,) bool: the hidden patches."""
        squares = self.side // self.square
        hidden = np.zeros(squares**2, bool)
        hidden[np.random.permutation(len(hidden))[: self.count]] = True
        return hidden.reshape(squares, squares).repeat(self.square, 0).repeat(self.square, 1).ravel()

    def __call__(self, example: Mapping[str, Any]) -> dict[str, Any]:
        """The example with its "mask"."""
        return {**example, "mask": self.draw()}


def augmentation(
    config: ImagePretrainingConfig, pixels: Pixels, hiding: Hiding
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """example -> {"pixels": (3, H, W), "mask": (N,)}: the picture a little different each time, and other patches of it
    hidden. What is open is chosen and is then in `config`."""
    vary = Augmentation(*config.choose_variation(), config.colour_jitter)

    def augment(example: Mapping[str, Any]) -> dict[str, Any]:
        return {"pixels": vary(read(example["image"]), pixels), "mask": hiding.draw()}

    return augment


def collator(pixels: Pixels) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    return partial(collate, pixels=pixels)


def collate(examples: Sequence[Mapping[str, Any]], *, pixels: Pixels) -> Batch:
    """pixel_values (B, 3, H, W) float32; mask (B, N) bool, if the examples have one."""
    batch = {"pixel_values": stack_pixels(examples, pixels)}
    if "mask" in examples[0]:
        batch["mask"] = torch.from_numpy(np.stack([example["mask"] for example in examples]))
    return batch
