"""Examples of images, decoded when a batch needs them. Shapes: B examples, H, W sides that the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import get_worker_info

from hftrain.vision.decoding import read
from hftrain.vision.pixels import Pixels

THREADS = 4  # that decode a batch of an evaluation


def stack_pixels(examples: Sequence[Mapping[str, Any]], pixels: Pixels) -> torch.Tensor:
    """(B, 3, H, W) float32: the "pixels" of each example, or if it has none its "image" as for evaluation."""

    def picture(example: Mapping[str, Any]) -> torch.Tensor:
        return example["pixels"] if "pixels" in example else pixels.tensor(pixels.fit(read(example["image"])))

    if "pixels" not in examples[0] and get_worker_info() is None:
        with ThreadPoolExecutor(THREADS) as pool:
            return torch.stack(list(pool.map(picture, examples)))
    return torch.stack([picture(example) for example in examples])
