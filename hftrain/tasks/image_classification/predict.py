"""Labels with probabilities, or a number, of image files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hftrain.labels.predict import no_label, predictions, problem_of
from hftrain.models.saved import Saved, load_weights


def classify(saved: Saved, images: Sequence[Any], batch_size: int) -> list[Any]:
    """For each image the same as `hftrain.tasks.classification.predict.classify` for a text. An image is a path, or
    what a row has in its column: bytes, or the dict of datasets.Image.

    Raises:
        ValueError: an image that cannot be read, or is on the network; a folder without the image processor's settings.
    """
    import numpy as np

    from hftrain.data.examples import Examples
    from hftrain.models import dinov3 as dinov3  # makes its classifier known to transformers
    from hftrain.tasks.image_classification.examples import collator
    from hftrain.vision.pixels import Pixels, saved_settings
    from hftrain.vision.sources import located

    pixels, problem = Pixels(saved_settings(saved.folder)), problem_of(saved.config)
    known = located(images)
    model, device = load_weights(saved, "AutoModelForImageClassification")
    examples = Examples([{"image": path} | no_label(problem) for path, _ in known], np.ones(len(known)))
    collate = collator(pixels, problem, saved.config.num_labels or 0)
    return predictions(saved, model, device, examples, batch_size, collate)
