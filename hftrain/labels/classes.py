"""Labels in the data, the list of classes, and labels as numbers.

Shapes: N examples, B examples of a batch, K classes or labels (1 for regression).
"""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from hftrain.data import readers
from hftrain.data.examples import Examples
from hftrain.data.names import report_names
from hftrain.data.rows import dataset
from hftrain.data.written import unwritten, unwritten_or_text
from hftrain.labels.config import LabelConfig
from hftrain.models import load

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
SEPARATORS = ",;|"
LABEL_TYPE = {
    "single_label_classification": pa.string(),
    "multi_label_classification": pa.list_(pa.string()),
    "regression": pa.float64(),
}


ID_TYPE = {
    "single_label_classification": pa.int64(),
    "multi_label_classification": pa.list_(pa.int64()),
    "regression": pa.float64(),
}


def read_label(values: list[Any], names: list[str], config: LabelConfig, cuts: set[str]) -> Any:
    """The label of a row, from one column, or from several with 0 or 1 each.

    Args:
        cuts: collects the signs at which texts are split into labels.

    Raises:
        readers.Fault: it is not a label.
    """
    if len(values) > 1:
        return read_flags(values, names, config)
    if config.problem_type == "regression":
        return read_number(values[0], names[0])
    if config.problem_type == "single_label_classification":
        return read_class(values[0], names[0])
    return read_classes(values[0], names[0], config.label_names, cuts)


def read_flags(values: list[Any], names: list[str], config: LabelConfig) -> str | list[str]:
    """The columns that contain 1, or for a single class the only one. Raises: Fault."""
    chosen = []
    for column, value, name in zip(config.label_column, values, names, strict=True):
        flag = FLAGS.get(str(value).strip().lower())
        if flag is None:
            raise readers.Fault(f"{name} is {json.dumps(value, default=str):.60}, but must be 0, 1 or a boolean")
        chosen += [column] * flag
    if config.problem_type == "multi_label_classification":
        return chosen
    if len(chosen) != 1:
        raise readers.Fault(
            f"{len(chosen)} of the label columns are 1, but exactly one must be: {', '.join(chosen) or 'none'}"
            + (" (several labels: problem_type multi_label_classification)" if chosen else "")
        )
    return chosen[0]


def read_class(value: Any, name: str) -> str:
    """The name of a class; true, 3 and 3.0 become "true", "3" and "3". Raises: Fault."""
    value = unwritten_or_text(value)
    if isinstance(value, list):
        raise readers.Fault(
            f"{name} is a list: set problem_type multi_label_classification, also for a vector of 0 and 1"
        )
    if isinstance(value, float) and not value.is_integer():
        raise readers.Fault(
            f"{name} is {value}, which is not a class: write a name or a whole number, or set problem_type regression"
        )
    if isinstance(value, bool | int | float):
        return json.dumps(value if isinstance(value, bool) else int(value))
    return readers.text(value, name).strip()


def read_classes(value: Any, name: str, known_names: Sequence[str], cuts: set[str]) -> list[str]:
    """Any number of classes: a list, also if written as text, or a text with commas, semicolons or bars between them. A
    vector of 0 and 1 stays unchanged, for `read_vectors`. Raises: Fault."""
    try:
        value = unwritten(value)
    except ValueError as error:
        raise readers.Fault(f"{name} {error}") from None
    if isinstance(value, str):
        value = [value] if value.strip() in known_names else cut(value, name, cuts)
    if not isinstance(value, list):
        raise readers.Fault(f"{name} is null" if value is None else f"{name} is {value!r:.60}, not a list of labels")
    if any(isinstance(item, list) for item in value):
        raise readers.Fault(f"{name} is a list of lists, but must be a list of class names: {value!r:.60}")
    labels = [read_class(item, f"a label of {name}") for item in value]
    return labels if all(label in FLAGS for label in labels) else list(dict.fromkeys(labels))


def cut(text: str, name: str, cuts: set[str]) -> list[str]:
    """The labels in a text. Raises: Fault."""
    signs = [sign for sign in SEPARATORS if sign in text]
    if len(signs) > 1:
        raise readers.Fault(f'{name} has {" and ".join(signs)} between labels: write a list (["a", "b"]): {text!r:.60}')
    if re.fullmatch(r"[01](\s+[01])+", text.strip()):
        return text.split()
    cuts.update(signs)
    return [part for part in (text.split(signs[0]) if signs else [text]) if part.strip()]


def read_number(value: Any, name: str) -> float:
    """A finite number. Raises: Fault."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise readers.Fault(f"{name} is null" if value is None else f"{name} is not a number: {value!r:.60}")
    return number


# ---- vectors


def read_vectors(rows: "dict[str, Rows]", config: LabelConfig) -> "dict[str, Rows]":
    """The rows, with lists of classes in place of vectors: labels of the same length in every row, with 0 or 1 for each
    class. `label_names` names the classes, or else they are numbered from 0; the training rows get them as `classes`.

    Raises:
        ValueError: only some labels are such vectors; or the meaning of the numbers is ambiguous.
    """
    labels = {split: list(part["label"]) for split, part in rows.items()}
    vectors = {
        split: [label for label in part if all(name in FLAGS for name in label)] for split, part in labels.items()
    }
    sizes = {len(label) for part in labels.values() for label in part}
    if len(sizes) > 1 or sizes == {0} or any(len(vectors[split]) < len(labels[split]) for split in labels):
        for split, part in labels.items():
            for number, label in enumerate(part, 1):
                if len(set(label)) < len(label):  # a list of classes has no repetitions
                    raise ValueError(
                        f"{config.label_column[0]!r} of {split} row {number} is a vector of 0 and 1 "
                        f"({', '.join(label):.60}), but not every row has one of {len(label)} places. "
                        "Write a vector with a place for each class in every row, or write the names of the classes"
                    )
        return rows
    (size,) = sizes
    if size == 1 and len(config.label_names) > 1:
        return rows  # class numbers
    if size == 1 and not config.label_names:
        raise ValueError(
            f"{config.label_column[0]!r} is a single 0 or 1 in every row. If it marks rows with the only label, set "
            "label_names to the name of the label; if it is the number of one of two classes, set it to both names"
        )
    names = config.label_names or [str(place) for place in range(size)]
    if len(names) != size:
        raise ValueError(
            f"{config.label_column[0]!r} contains vectors of {size} places, but label_names has {len(names)} names"
        )
    logger.warning(
        "the labels are read as vectors of 0 and 1 with a place for each of %s classes: %s", size, _some(names)
    )
    converted = {}
    for split, vectors_of_split in labels.items():
        chosen = [[name for name, flag in zip(names, label, strict=True) if FLAGS[flag]] for label in vectors_of_split]
        converted[split] = replace_labels(rows[split], chosen)
    return converted | {"train": replace(converted["train"], classes=names)}


def replace_labels(rows: "Rows", labels: list[list[str]]) -> "Rows":
    """The rows with other lists of labels."""
    table = rows.data.with_format("arrow")[:]
    place = table.column_names.index("label")
    table = table.set_column(place, table.schema.field("label"), pa.array(labels, pa.list_(pa.string())))
    return replace(rows, data=dataset(table))


# ---- classes


def number_classes(rows: "dict[str, Rows]", config: LabelConfig) -> tuple[list[str], dict[str, int]]:
    """The names of the classes, in the order of their numbers, and the number of each label in the rows.

    The names are `config.label_names`; or those of the model, if it is a classifier with all labels of the rows, or
    with exactly as many as their numbers; or the columns of the labels; or the labels of the training rows, whole
    numbers by size, names by alphabet.

    Raises:
        ValueError: labels are not among the classes (the message lists their rows), or there is only one class.
    """
    if config.problem_type == "regression":
        return [], {}
    places_of = {split: label_rows(part) for split, part in rows.items()}
    head = classes_of_model(config)
    if not places_of["train"]:
        raise ValueError("no training row has a label: check label_column")
    declared: list[str] = list(rows["train"].classes)  # from vectors
    if len(config.label_column) > 1:
        declared = config.label_column
    train = declared or sorted(places_of["train"], key=_by_size_or_name(places_of["train"]))
    numbers = [str(number) for number in range(len(head) + 1)]
    if config.label_names:
        names, origin = config.label_names, "label_names"
    elif head and (set(train) <= set(head) or train in (numbers[:-1], numbers[1:])):
        names, origin = head, f"the classes of {config.model_name_or_path}"
        if not set(train) <= set(head):
            logger.warning(
                "the numbers of the labels are those of %s: %s; to change that set label_names",
                *(origin, _some([f"{number} = {name}" for number, name in enumerate(names)])),
            )
    else:
        names, origin = train, "the training rows"
        if head:
            logger.warning(
                "%s has the classes %s, but the training rows have %s: a new head replaces its head",
                *(config.model_name_or_path, _some(head), _some(train)),
            )
    ids = {name: number for number, name in enumerate(names)}
    if origin != "the training rows":
        ids = {str(number): number for number in range(len(names))} | ids

    def shown(label: str) -> str:
        name = names[ids[label]] if label in ids else label
        return label if name == label else f"{label} = {name}"

    counts = {split: {shown(label): len(places) for label, places in part.items()} for split, part in places_of.items()}
    everywhere = sum(map(Counter, counts.values()), Counter())
    report_names(counts["train"], "classes", f"column {config.label_column[0]!r}", everywhere)
    for split, labels in places_of.items():
        strange = [label for label in labels if label not in ids]
        if not strange:
            continue
        every = {label for labels in places_of.values() for label in labels}
        numbers = sorted(every, key=_by_size_or_name(every))
        if _whole_numbers(numbers) and numbers[0] == "1" and numbers[-1] == str(len(names)):
            raise ValueError(
                f"the labels are off by one: the rows have 1 to {len(names)}, and {origin} ({_some(names)}) count from "
                f"0 to {len(names) - 1}. Subtract 1 from {config.label_column[0]!r}, or write the names there"
            )
        shown_labels = "; ".join(f"{label!r} in {_rows(labels[label])}" for label in strange[:5])
        raise ValueError(
            f"the {split} rows have labels that are not among {origin} ({_some(names)}): {shown_labels}"
            + (f"; and {len(strange) - 5} more" if len(strange) > 5 else "")
            + ". Correct them, add training rows for them, or list all classes in label_names"
            + ("; or set problem_type=regression, to learn numbers" if any(map(_fraction, every)) else "")
        )
    if config.problem_type == "single_label_classification" and len(places_of["train"]) == 1:
        raise ValueError(
            f"all {len(rows['train'])} training rows have the label {next(iter(places_of['train']))!r}: "
            "there is nothing to distinguish"
        )
    if absent := [
        name for number, name in enumerate(names) if number not in {ids[label] for label in places_of["train"]}
    ]:
        logger.warning("no training row has these labels of %s: %s", origin, _some(absent))
    return list(names), ids


def label_rows(rows: "Rows") -> dict[str, list[int]]:
    """Each label with its rows (from 0)."""
    places: dict[str, list[int]] = {}
    for number, label in enumerate(rows["label"]):
        for name in label if isinstance(label, list) else [label]:
            places.setdefault(name, []).append(number)
    return places


def classes_of_model(config: LabelConfig) -> list[str]:
    """The classes of a pretrained classifier; [] for other models."""
    if config.model_name_or_path is None:
        return []
    model_config: Any = load.load_model_config(config)
    classifies = any(config.HEAD in name for name in model_config.architectures or ())
    if not classifies or model_config.num_labels < 2:
        return []
    return [
        str(number) if name == f"LABEL_{number}" else name for number, name in sorted(model_config.id2label.items())
    ]


def _whole_numbers(labels: Sequence[str]) -> bool:
    return all(label.isascii() and label.removeprefix("-").isdigit() for label in labels)


def _fraction(label: str) -> bool:
    return bool(re.fullmatch(r"[-+]?\d*\.\d+", label))


def _by_size_or_name(labels: Any) -> Any:
    return int if _whole_numbers(list(labels)) else str


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", ... {len(names)} in all" if len(names) > 8 else "")


def _rows(numbers: list[int]) -> str:
    shown = ", ".join(str(number + 1) for number in numbers[:3]) + (", ..." if len(numbers) > 3 else "")
    return f"row {shown}" if len(numbers) == 1 else f"{len(numbers)} rows ({shown})"


# ---- labels as numbers


def number_label(label: Any, ids: Mapping[str, int]) -> Any:
    """The number of a class, or of each of several; a number for regression stays unchanged."""
    return [ids[name] for name in label] if isinstance(label, list) else ids.get(label, label)


def indicators(labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """(N, K) int64: 1 where a row has the label."""
    matrix = np.zeros((len(labels), classes), dtype=np.int64)
    for row, numbers in zip(matrix, labels, strict=True):
        row[list(numbers)] = 1
    return matrix


def batch_labels(labels: Sequence[Any], problem: str, classes: int) -> torch.Tensor:
    """(B,) int64 classes, (B, K) 0.0 or 1.0 for several labels, (B,) float32 numbers."""
    if problem == "multi_label_classification":
        return torch.from_numpy(indicators(labels, classes)).float()
    return torch.tensor(labels, dtype=torch.float32 if problem == "regression" else torch.int64)


def references(examples: Examples, problem: str, classes: int) -> np.ndarray:
    """The references for metrics: (N,) class numbers, (N, K) 0 or 1, or (N,) numbers."""
    labels = examples.column("labels")
    return indicators(labels, classes) if problem == "multi_label_classification" else np.asarray(labels)


def relative_weights(counts: np.ndarray, rows: int, names: Sequence[str], config: LabelConfig) -> np.ndarray | None:
    """(K,) what `balance_classes` or `class_weights` says of classes that (K,) `counts` of the training rows have; None
    without these settings."""
    if config.class_weights:
        return np.array([config.class_weights.get(name, 1.0) for name in names], dtype=np.float64)
    if not config.balance_classes:
        return None
    several = config.problem_type == "multi_label_classification"
    return (rows - counts if several else np.ones_like(counts)) / np.maximum(counts, 1)


def weights(examples: Examples, names: Sequence[str], config: LabelConfig) -> torch.Tensor | None:
    """(K,) weights of the classes in the training loss, or None if all are 1.

    For single labels they are scaled so that the training rows' mean weight is 1: a step's loss is divided by its rows,
    so the weight of a row does not depend on the other rows of its step. For several labels they are the weights of
    rows with the label, relative to 1 for rows without it.

    Raises:
        ValueError: a class does not exist.
    """
    if problem := load.unknown_key(config.class_weights, names, "the set of classes"):
        raise ValueError(f"class_weights: {problem}")
    several = config.problem_type == "multi_label_classification"
    counted = Counter(
        class_number for label in examples.column("labels") for class_number in (label if several else [label])
    )
    counts = np.array([counted[number] for number in range(len(names))], dtype=np.float64)
    chosen = relative_weights(counts, len(examples), names, config)
    if chosen is None:
        return None
    if not several:
        mean = (chosen * counts).sum() / counts.sum()
        if mean == 0:
            raise ValueError("class_weights: every training row has the weight 0")
        chosen = chosen / mean
    return torch.tensor(chosen, dtype=torch.float32)
