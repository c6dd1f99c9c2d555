"""Features of image files, and their hidden patches reconstructed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftrain.models.saved import Saved, load_weights, recall, refuse_nan
from hftrain.vision.sources import located

if TYPE_CHECKING:
    from hftrain.data.examples import Examples
    from hftrain.vision import Pixels

HEADS = ("ForMaskedImageModeling", "ViTMAEForPreTraining")


def is_reconstructor(kind: str) -> bool:
    """Whether a kind of model, by transformers' class names, is one of this task."""
    return any(head in kind for head in HEADS)


def embed(saved: Saved, images: Sequence[Any], batch_size: int) -> list[dict[str, list[float]]]:
    """For each image its "features": the states of its patches, averaged over squares of neighbours. An image is a
    path, or what a row has in its column: bytes, or the dict of datasets.Image.

    Raises:
        ValueError: an image that cannot be read, or is on the network; a folder without the image processor's settings.
    """
    from hftrain.tasks.image_pretraining.examples import collator
    from hftrain.tasks.image_pretraining.scoring import features
    from hftrain.train.evaluation import OneProcess

    model, device, pixels = loaded(saved)
    values = features(OneProcess(device), model, of_files(images), batch_size, collate=collator(pixels))
    refuse_nan(values.flatten().tolist(), saved.folder)
    return [{"features": row} for row in values.tolist()]


def draw(folder: Path, saved: Saved, files: Sequence[str], batch_size: int) -> None:
    """Writes each image, what the model sees of it, and what it reconstructs, side by side, to `folder`, as PNG under
    its name.

    Raises:
        ValueError: two images have one name, or the model was not trained by hftrain.
    """
    from PIL import Image

    from hftrain.data.noise import Noised
    from hftrain.tasks.image_pretraining.examples import Hiding, collator
    from hftrain.tasks.image_pretraining.scoring import reconstruct
    from hftrain.train.evaluation import OneProcess
    from hftrain.vision.sheet import DRAWN, enlarged, pngs_of

    hiding = recall(saved.config, "hiding")
    if hiding is None:
        raise ValueError(f"--draw: {saved.folder} does not say how much of an image it hides: train it with hftrain")
    pictures = pngs_of(files, "--draw", folder)
    model, device, pixels = loaded(saved)
    examples = Noised(of_files(files), Hiding(**hiding), seed=0)
    triples = reconstruct(OneProcess(device), model, examples, batch_size, collate=collator(pixels))
    for picture, triple in zip(pictures, triples, strict=True):
        shown = [enlarged(pixels.picture(triple[part]), DRAWN) for part in ("original", "hidden", "reconstructed")]
        sheet = Image.new("RGB", (sum(image.width for image in shown), shown[0].height))
        for place, image in enumerate(shown):
            sheet.paste(image, (place * image.width, 0))
        sheet.save(picture)


def loaded(saved: Saved) -> tuple[Any, str, Pixels]:
    """The model, its device, and how it reads images. Raises: ValueError, as `embed`."""
    from hftrain.vision.pixels import Pixels, saved_settings

    pixels = Pixels(saved_settings(saved.folder))
    mae = "ForPreTraining" in str(saved.config.architectures)
    model, device = load_weights(saved, "AutoModelForPreTraining" if mae else "AutoModelForMaskedImageModeling")
    return model, device, pixels


def of_files(images: Sequence[Any]) -> Examples:
    """Raises: ValueError, an image that cannot be read."""
    import numpy as np

    from hftrain.data.examples import Examples

    known = located(images)
    return Examples([{"image": path} for path, _ in known], np.ones(len(known)))


def line(prediction: dict[str, list[float]]) -> str:
    """The features, with six digits each."""
    return " ".join(f"{value:.6g}" for value in prediction["features"])
