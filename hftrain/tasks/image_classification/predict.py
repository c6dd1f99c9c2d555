"""Labels with probabilities, or a number, of image files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hftrain.labels.predict import problem_of, say
from hftrain.models.saved import Saved, load_weights, recall, refuse_nan


def classify(saved: Saved, images: Sequence[Any], batch_size: int) -> list[Any]:
    """For each image the same as `hftrain.tasks.classification.predict.classify` for a text. An image is a path, or
    what a row has in its column: bytes, or the dict of datasets.Image.

    Raises:
        ValueError: an image that cannot be read, or is on the network; a folder without the image processor's settings.
    """
    import numpy as np

    from hftrain.data.examples import Examples
    from hftrain.labels import scoring
    from hftrain.tasks.image_classification.examples import collator
    from hftrain.train.evaluation import OneProcess
    from hftrain.vision.pixels import Pixels, saved_settings
    from hftrain.vision.sources import located

    folder, config = saved.folder, saved.config
    pixels, problem = Pixels(saved_settings(folder)), problem_of(config)
    known = located(images)
    model, device = load_weights(saved, "AutoModelForImageClassification")
    label: Any = [] if problem == "multi_label_classification" else 0
    examples = Examples([{"image": path, "labels": label} for path, _ in known], np.ones(len(known)))
    collate = collator(pixels, problem, config.num_labels or 0)
    outputs = scoring.score(OneProcess(device), model, examples, batch_size, collate=collate, problem=problem).outputs
    refuse_nan(outputs.flatten().tolist(), folder)
    decided = scoring.decide(outputs, problem, recall(config, "thresholds") or ())
    names: Any = config.id2label
    return [say(row, decision, problem, names) for row, decision in zip(outputs.tolist(), decided, strict=True)]
