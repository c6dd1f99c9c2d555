"""Rows of texts, or of pairs of texts, with their labels."""

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.data import readers
from hftrain.data.written import looks_written, unwritten_or_text
from hftrain.labels import rows as labelled
from hftrain.tasks.classification.config import ClassificationConfig

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)


def load_labelled(config: ClassificationConfig, seed: int) -> "dict[str, Rows]":
    """Rows {"text", ["text_pair",] "label"} of each split; the labels are as in `hftrain.labels.rows`.

    Raises:
        ValueError: rows cannot be used; the message has their lines.
    """
    columns = {"text": config.text_column}
    if config.text_pair_column is not None:
        columns["text_pair"] = config.text_pair_column
    written: Counter[str] = Counter()

    def read(values: list[Any], names: list[str]) -> list[str]:
        texts = readers.texts(values, names)
        for text, name in zip(texts, names, strict=False):
            written[name] += looks_written(text) and not isinstance(unwritten_or_text(text), str)
        return texts

    rows = labelled.load_labelled(
        config,
        seed,
        columns=columns,
        inputs=pa.schema([(name, pa.string()) for name in columns]),
        read=read,
        settings="text_column, text_pair_column",
    )
    for name, count in written.items():
        if count:
            logger.warning(
                "%d values of %s are lists or objects written as text: they are read as plain text", count, name
            )
    return rows
