"""Rows of texts, or of pairs of texts, with their labels."""

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.data import readers
from hftrain.data.splits import load_splits
from hftrain.data.unread import Unread
from hftrain.data.written import looks_written, unwritten_or_text
from hftrain.tasks.classification.config import ClassificationConfig
from hftrain.tasks.classification.labels import LABEL_TYPE, read_label, read_vectors

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)


def load_labelled(config: ClassificationConfig, seed: int) -> "dict[str, Rows]":
    """Rows {"text", ["text_pair",] "label"} of each split: as a `DataConfig` and `ClassificationConfig` say.

    Labels are class names (whole numbers as their digits), lists of them, or numbers.

    Raises:
        ValueError: rows that cannot be used, with their lines.
    """
    columns = {"text": config.text_column}
    if config.text_pair_column is not None:
        columns["text_pair"] = config.text_pair_column
    texts = pa.schema([(name, pa.string()) for name in columns])
    labels = {f"label {column}": column for column in config.label_column}
    cuts: set[str] = set()
    written: Counter[str] = Counter()
    trimmed: Counter[str] = Counter()
    unread = Unread()

    def read_row(values: list[Any], names: list[str]) -> list[Any]:
        """Texts and label of a row. Raises: Fault."""
        label = read_label(values[len(texts) :], names[len(texts) :], config, cuts)
        for value in values[len(texts) :]:
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str) and name != name.strip():
                    trimmed[name] += 1
        found = readers.texts(values[: len(texts)], names[: len(texts)])
        for text, name in zip(found, names, strict=False):
            written[name] += looks_written(text) and not isinstance(unwritten_or_text(text), str)
        return [*found, label]

    rows = load_splits(
        config,
        columns=columns | (labels if len(labels) > 1 else {"label": config.label_column[0]}),
        compare=[*columns, "label"],
        read=read_row,
        schema=texts.append(pa.field("label", LABEL_TYPE[config.problem_type])),
        seed=seed,
        unread=unread,
        stratify=None if config.problem_type == "regression" else "label",
        score="an accuracy" if config.problem_type == "single_label_classification" else None,
    )
    unread.warn("text_column, text_pair_column and label_column say what is read")
    for name, count in written.items():
        if count:
            logger.warning(
                "%d values of %s are lists or objects that were written as text: read as they stand", count, name
            )
    if trimmed:
        name = min(trimmed)
        logger.warning(
            "%d labels have blanks around them, which are left out: %r is read as %r",
            *(trimmed.total(), name, name.strip()),
        )
    if signs := cuts - {","}:
        logger.warning("labels are cut at %s; where it belongs to a name, write lists", " and at ".join(sorted(signs)))
    return read_vectors(rows, config) if config.problem_type == "multi_label_classification" else rows
