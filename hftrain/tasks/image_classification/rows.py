"""Images with their labels."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.labels import rows as labelled
from hftrain.tasks.image_classification.config import ImageClassificationConfig
from hftrain.vision.sources import ENDINGS, Contents, beside, digits, locate, read_image_file

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

# sha256 of the file, its path, pixels of the upright picture
IMAGE = pa.schema([("content", pa.string()), ("image", pa.string()), ("width", pa.int32()), ("height", pa.int32())])


def load_images(config: ImageClassificationConfig, seed: int) -> "dict[str, Rows]":
    """Rows {"content", "image", "width", "height", "label"} of each split; the labels are as in `hftrain.labels.rows`,
    of images in folders the folder's name.

    Raises:
        ValueError: rows that cannot be used, with their lines: images that are missing, truncated or corrupt, that are
            on the network, that are decompression bombs, or that stand there again with another label.
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
    for name, split in rows.items():
        if split.leaks and split.leaks.inputs:
            known = dict(zip(rows["train"]["content"], rows["train"]["image"], strict=True))
            row = next(row for row in split if row["content"] in known)
            logger.warning("leak: %s of %s is the image %s of train", row["image"], name, known[row["content"]])
    return rows
