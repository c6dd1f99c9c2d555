"""Images with maps of segments as examples, which are decoded when a batch needs them, and their batches.

Shapes: B examples of a batch, H, W height and width that the model reads, N masks of the batch.
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
from hftrain.losses import Batch
from hftrain.tasks.segmentation.config import SegmentationConfig
from hftrain.tasks.segmentation.rows import Classes
from hftrain.vision import read
from hftrain.vision.canvas import Canvas
from hftrain.vision.masks import VOID, MaskJitter, Segmented, resize_map, segment_map

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


def make_examples(rows: "Rows", classes: Classes, segmentation: str) -> Examples:
    """Rows as examples: {"image", "mask": paths, "height", "width", "values", "counts", "labels": of each segment its
    value in the mask, its run-length encoding and the number of its class, "things": whether it is an object}. Crowds
    are left out except for semantic segmentation. Their fingerprint depends on the contents, not on their places."""
    ids = {name: number for number, name in enumerate(classes.names)}
    kept = [
        [one for one in row if one["label"] in ids and not (one["crowd"] and segmentation != "semantic")]
        for row in rows["segments"]
    ]
    columns = {
        "values": pa.array([[one["value"] for one in row] for row in kept], pa.list_(pa.int64())),
        "counts": pa.array([[one["counts"] for one in row] for row in kept], pa.list_(pa.string())),
        "labels": pa.array([[ids[one["label"]] for one in row] for row in kept], pa.list_(pa.int64())),
        "things": pa.array([[one["label"] in classes.things for one in row] for row in kept], pa.list_(pa.bool_())),
    }
    plain = {name: rows[name][:] for name in ("image", "mask", "height", "width")}
    areas = [[one["area"] for one in row] for row in kept]
    identity = fingerprint(rows, *(column.to_pylist() for column in columns.values()), areas)
    return Examples(dataset(pa.table({**plain, **columns})), np.ones(len(rows)), rows=rows, fingerprint=identity)


def map_of(example: Mapping[str, Any]) -> np.ndarray:
    """The map of an example at the size of its image, (height, width)."""
    return segment_map(example["mask"], example["values"], example["counts"], example["height"], example["width"])


def augmentation(
    config: SegmentationConfig, examples: Examples, collate: Callable[[Sequence[Mapping[str, Any]]], Batch]
) -> Callable[[int, int], Callable[[Mapping[str, Any]], dict[str, Any]]]:
    """(step, steps) -> what makes of an example what `collate` makes of it, a little different each time; the segments
    follow. What is open is chosen and is then in `config`."""
    vary = MaskJitter(
        config.copy_paste, (config.smallest_scale, config.largest_scale), config.choose_flip(), config.colour_jitter
    )
    shown, whole = collate.keywords["shown"], collate.keywords["canvas"]  # type: ignore[attr-defined]

    def augment(example: Mapping[str, Any], canvas: Canvas) -> dict[str, Any]:
        others: list[Mapping[str, Any]] = []

        def other() -> Segmented:
            others.append(examples[np.random.randint(len(examples))])
            return opened(others[0])

        image, segments, copied = vary(opened(example), other)
        labels = [*example["labels"], *(others[0]["labels"] if copied else [])]
        made: dict[str, Any] = shown(image, segments, np.array(labels, np.int64), canvas=canvas)
        return made | {"points": np.random.randint(2**31)}

    return lambda step, steps: partial(augment, canvas=whole.at_step(step, config.seed, config.multi_scale))


def opened(example: Mapping[str, Any]) -> Segmented:
    return Segmented(read(example["image"]), map_of(example), np.array(example["things"], bool))


def collator(canvas: Canvas, segmentation: str, masks: bool) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    """`masks`: the model predicts a set of masks, not a label for each pixel."""
    shown = partial(show, canvas=canvas, merged=segmentation == "semantic", masks=masks)
    return partial(collate, canvas=canvas, shown=shown)


def show(
    image: Any, segments: np.ndarray, labels: np.ndarray, *, canvas: Canvas, merged: bool, masks: bool
) -> dict[str, Any]:
    """An image and its map as the model reads them: {"pixels": (3, H, W), "size", "original": width and height on the
    canvas and before}, with "labels": (H, W), or with "masks": (n, H, W), "classes": (n,); `merged`: a mask for each
    class, not for each segment."""
    picture, size = canvas.place(image)
    whole = np.zeros((canvas.height, canvas.width), np.int32)
    whole[: size[1], : size[0]] = resize_map(segments, *size)
    example = {"pixels": canvas.tensor(picture), "size": size, "original": image.size}
    label_map = np.concatenate([[VOID], labels])[whole]
    if not masks:
        return example | {"labels": label_map.astype(np.uint8)}
    numbers = np.unique(label_map[label_map != VOID]) if merged else np.setdiff1d(whole, [0])
    target = label_map if merged else whole
    example["masks"] = (target == numbers[:, None, None]).astype(np.uint8)
    return example | {"classes": (numbers if merged else labels[numbers - 1]).astype(np.int64)}


def collate(examples: Sequence[Mapping[str, Any]], *, canvas: Canvas, shown: Callable[..., dict[str, Any]]) -> Batch:
    """pixel_values (B, 3, H, W) float32; of padded images pixel_mask (B, H, W); sizes, originals (B, 2): (width,
    height) on the canvas and before; labels (B, H, W) with `VOID`, or masks (N, H, W), class_labels (N,), objects (B,):
    how many of the N each image has, points (B,): seeds of the points at which the loss looks."""
    ready = [
        example
        if "pixels" in example
        else shown(read(example["image"]), map_of(example), np.array(example["labels"], np.int64))
        for example in examples
    ]
    batch = {
        "pixel_values": torch.stack([example["pixels"] for example in ready]),
        "sizes": torch.tensor([example["size"] for example in ready]),
        "originals": torch.tensor([example["original"] for example in ready]),
    }
    if "labels" in ready[0]:
        batch["labels"] = torch.from_numpy(np.stack([example["labels"] for example in ready])).long()
    else:
        batch["masks"] = torch.from_numpy(np.concatenate([example["masks"] for example in ready]))
        batch["class_labels"] = torch.from_numpy(np.concatenate([example["classes"] for example in ready]))
        batch["objects"] = torch.tensor([len(example["classes"]) for example in ready])
        batch["points"] = torch.tensor([example.get("points", 0) for example in ready])
    if canvas.padded:
        batch["pixel_mask"] = torch.stack([canvas.mask(example["pixels"], example["size"]) for example in ready])
    return batch
