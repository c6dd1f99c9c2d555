"""Images, with a class if they have one."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.data.lines import Fault
from hftrain.data.splits import load_splits
from hftrain.tasks.image_pretraining.config import ImagePretrainingConfig
from hftrain.vision.sources import (
    ENDINGS,
    IMAGE,
    Contents,
    beside,
    digits,
    image_patterns,
    locate,
    name_leaks,
    read_image_file,
)

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

SCHEMA = IMAGE.append(pa.field("label", pa.string()))


def load_images(config: ImagePretrainingConfig, seed: int) -> "dict[str, Rows]":
    """Rows {"content", "image", "width", "height", "label"} of each split; a label is None where a row has none.

    Raises:
        ValueError: rows that cannot be used, with their lines: images that are missing, truncated or corrupt, that are
            on the network, that are decompression bombs, or that occur again with another label.
    """
    if config.built_in:
        config = replace(config, dataset_name=str(digits()))
    labelled = config.label_column is not None
    folder = Path(config.dataset_name or "").expanduser()
    if not labelled and config.train_file is None and folder.is_dir() and (patterns := image_patterns([folder])):
        config = replace(config, dataset_name=None, train_file=patterns)

    def read(values: list[Any], names: list[str]) -> list[str | None]:
        label = values[1] if labelled else None
        if label is not None and not isinstance(label, str | int):
            raise Fault(f"{names[1]} is not a class: {label!r:.60}")
        return [locate(values[0], names[0]), None if label is None else str(label)]

    columns = {"image": config.image_column}
    rows = load_splits(
        config,
        columns=columns | ({"label": config.label_column} if config.label_column else {}),
        seed=seed,
        compare=["content"],
        read=read,
        schema=SCHEMA,
        reader=read_image_file,
        endings=ENDINGS,
        resolve=beside,
        finish=Contents().look,
    )
    name_leaks(rows)
    return rows
