"""Recordings as examples, which are decoded when a batch needs them, and their batches.

Shapes: B examples of a batch, K classes or labels (1 for regression).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hftrain.audio import read
from hftrain.audio.features import Features
from hftrain.data.examples import Examples
from hftrain.data.media import fingerprint
from hftrain.data.rows import dataset
from hftrain.labels.classes import ID_TYPE, batch_labels, number_label
from hftrain.losses import Batch
from hftrain.tasks.audio_classification.config import AudioClassificationConfig

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

FRAMES = 100  # of a second: the lengths that batches are cut by


def make_examples(rows: "Rows", ids: Mapping[str, int], config: AudioClassificationConfig) -> Examples:
    """Rows as examples {"audio": path, "start", "end", "labels"}, of at most `longest_seconds`; the count "truncated"
    has those that are cut. Their lengths are hundredths of a second; their fingerprint depends on the contents of the
    recordings, not on their places."""
    labels = [number_label(label, ids) for label in rows["label"]]
    seconds, begins, longest = np.array(rows["seconds"][:]), rows["start"][:], config.longest_seconds or float("inf")
    cut = seconds > longest
    ends = [
        (begin or 0.0) + longest if long else end for begin, end, long in zip(begins, rows["end"], cut, strict=True)
    ]
    if cut.any():
        logger.warning("%d %s recordings are cut to %g s", cut.sum(), rows.split, longest)
    table = pa.table(
        {
            "audio": rows["audio"][:],
            "start": pa.array(begins, pa.float64()),
            "end": pa.array(ends, pa.float64()),
            "labels": pa.array(labels, ID_TYPE[config.problem_type]),
        }
    )
    lengths = np.maximum(1, np.ceil(np.minimum(seconds, longest) * FRAMES)).astype(int)
    counts = {"truncated": int(cut.sum())}
    return Examples(dataset(table), lengths, counts=counts, rows=rows, fingerprint=fingerprint(rows, labels, ends))


def augmentation(
    config: AudioClassificationConfig, features: Features
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """example -> {"wave", "masks", "labels"}, a little different each time."""
    vary = config.augmentation()

    def augment(example: Mapping[str, Any]) -> dict[str, Any]:
        wave = vary(wave_of(example, features.rate), features.rate, features.window)
        return {"wave": wave, "masks": vary.masks(), "labels": example["labels"]}

    return augment


def wave_of(example: Mapping[str, Any], rate: int) -> np.ndarray:
    return read(example["audio"], rate, example["start"], example["end"])


def collator(features: Features, problem: str, classes: int) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    return partial(collate, features=features, problem=problem, classes=classes)


def collate(examples: Sequence[Mapping[str, Any]], *, features: Features, problem: str, classes: int) -> Batch:
    """The inputs of `Features`; labels (B,) int64, (B, K) 0.0 or 1.0 of several labels, (B,) float32 of numbers."""
    waves = [example["wave"] if "wave" in example else wave_of(example, features.rate) for example in examples]
    batch = features(waves, [example["masks"] for example in examples if "masks" in example])
    del batch["lengths"]
    return batch | {"labels": batch_labels([example["labels"] for example in examples], problem, classes)}
