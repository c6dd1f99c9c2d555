"""Images with their labels."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hftrain.labels import rows as labelled
from hftrain.tasks.image_classification.config import ImageClassificationConfig
from hftrain.vision.sources import ENDINGS, IMAGE, Contents, beside, digits, locate, name_leaks, read_image_file

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


def load_images(config: ImageClassificationConfig, seed: int) -> "dict[str, Rows]":
    """Rows {"content", "image", "width", "height", "label"} of each split; the labels are as in `hftrain.labels.rows`,
    of images in folders the folder's name.

    Raises:
        ValueError: rows that cannot be used, with their lines: images that are missing, truncated or corrupt, that are
            on the network, that are decompression bombs, or that occur again with another label.
    """
    if config.built_in:
        config = replace(config, dataset_name=str(digits()))

    def read(values: list[Any], names: list[str]) -> list[str]:
        return [locate(values[0], names[0])]

    rows = labelled.load_labelled(
        config,
        seed,
        columns={"image": config.image_column},
        inputs=IMAGE,
        read=read,
        settings="image_column",
        same=["content"],
        reader=read_image_file,
        endings=ENDINGS,
        resolve=beside,
        finish=Contents().look,
    )
    name_leaks(rows)
    return rows
