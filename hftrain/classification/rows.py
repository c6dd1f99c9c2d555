"""Rows with labels, the classes there are, and examples of token ids.

Shapes: B examples of a batch, T tokens, K classes or labels (1 for regression).
"""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from hftrain.classification.settings import ClassificationConfig
from hftrain.data import readers
from hftrain.losses import Batch
from hftrain.models import load
from hftrain.splits import load_splits
from hftrain.text import learn_tokenizer, pad, tokenized
from hftrain.text.examples import TOKENS, of_split

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

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


def load_labelled(config: ClassificationConfig, seed: int) -> "dict[str, Dataset]":
    """Rows {"text", ["text_pair",] "label"} of each split: as a `DataConfig` and `ClassificationConfig` say.

    Labels are class names (whole numbers as their digits), lists of them, or numbers.

    Raises:
        ValueError: rows that cannot be used, with their lines.
    """
    columns = {"text": config.text_column}
    if config.text_pair_column is not None:
        columns["text_pair"] = config.text_pair_column
    texts = pa.schema([(name, pa.string()) for name in columns])
    return load_splits(
        config,
        columns=columns | {"label": config.label_column},
        read=partial(read_row, problem=config.problem_type),
        schema=texts.append(pa.field("label", LABEL_TYPE[config.problem_type])),
        seed=seed,
    )


def read_row(values: list[Any], names: list[str], problem: str) -> list[Any]:
    """Texts and label of a row. Raises: Fault."""
    *texts, label = values
    return [*readers.texts(texts, names[:-1]), READ_LABEL[problem](label, names[-1])]


def read_class(value: Any, name: str) -> str:
    """A class by its name; true, 3 and 3.0 are "true", "3" and "3". Raises: Fault."""
    if isinstance(value, list):
        raise readers.Fault(f"{name} is a list: set problem_type multi_label_classification")
    if isinstance(value, float) and not value.is_integer():
        raise readers.Fault(f"{name} is {value}, no class: a name, a whole number, or problem_type regression")
    if isinstance(value, bool | int | float):
        return json.dumps(value if isinstance(value, bool) else int(value))
    return readers.text(value, name).strip()


def read_classes(value: Any, name: str) -> list[str]:
    """Any number of classes: a list of them, or text with commas between. Raises: Fault."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list):
        raise readers.Fault(f"{name} is null" if value is None else f"{name} is {value!r:.60}, no list of labels")
    return list(dict.fromkeys(read_class(each, f"a label of {name}") for each in value))


def read_number(value: Any, name: str) -> float:
    """A finite number. Raises: Fault."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise readers.Fault(f"{name} is null" if value is None else f"{name} is not a number: {value!r:.60}")
    return number


READ_LABEL: dict[str, Callable[[Any, str], Any]] = {
    "single_label_classification": read_class,
    "multi_label_classification": read_classes,
    "regression": read_number,
}


# ---- classes


def number_classes(rows: "dict[str, Dataset]", config: ClassificationConfig) -> tuple[list[str], dict[str, int]]:
    """The classes' names, in the order of their numbers, and the number of each label as it stands in the rows.

    The names are `config.label_names`; else those of the model, if it is a classifier that has all the labels of the
    rows, or as many as they count; else the labels of the training rows, whole numbers by size, names by alphabet.

    Raises:
        ValueError: labels that are no class, with the rows where they stand; a single class.
    """
    if config.problem_type == "regression":
        return [], {}
    found = {split: label_rows(each) for split, each in rows.items()}
    train = sorted(found["train"], key=_by_size_or_name(found["train"]))
    if not train:
        raise ValueError("no training row has a label: look at label_column")
    head = classes_of_model(config)
    if config.label_names:
        names, origin = config.label_names, "label_names"
    elif head and (set(train) <= set(head) or (_whole_numbers(train) and int(train[-1]) <= len(head))):
        names, origin = head, f"the classes of {config.model_name_or_path}"
    else:
        names, origin = train, "the training rows"
        if head:
            logger.warning(
                "%s classifies into %s, and the training rows into %s: its head is replaced by a new one",
                *(config.model_name_or_path, _some(head), _some(train)),
            )
    ids = {name: number for number, name in enumerate(names)}
    if origin != "the training rows":
        ids = {str(number): number for number in range(len(names))} | ids
    for split, labels in found.items():
        strange = [label for label in labels if label not in ids]
        if not strange:
            continue
        every = {label for each in found.values() for label in each}
        numbers = sorted(every, key=_by_size_or_name(every))
        if _whole_numbers(numbers) and numbers[0] == "1" and numbers[-1] == str(len(names)):
            raise ValueError(
                f"the labels are off by one: the rows have 1 to {len(names)}, and {origin} ({_some(names)}) count from "
                f"0 to {len(names) - 1}. Subtract 1 from {config.label_column!r}, or put the names there"
            )
        said = "; ".join(f"{label!r} in {_rows(labels[label])}" for label in strange[:5])
        raise ValueError(
            f"the {split} rows have labels that are not among {origin} ({_some(names)}): {said}"
            + (f"; and {len(strange) - 5} more" if len(strange) > 5 else "")
            + ". Mend them, add training rows of them, or name all classes in label_names"
            + ("; or set problem_type=regression, to learn numbers" if any(map(_fraction, every)) else "")
        )
    if config.problem_type == "single_label_classification" and len(train) == 1:
        raise ValueError(
            f"all {len(rows['train'])} training rows have the label {train[0]!r}: there is nothing to tell apart"
        )
    if absent := [name for number, name in enumerate(names) if number not in {ids[label] for label in train}]:
        logger.warning("no training row has the labels %s of %s", _some(absent), origin)
    return list(names), ids


def label_rows(rows: "Dataset") -> dict[str, list[int]]:
    """Each label with the rows (from 0) where it stands."""
    found: dict[str, list[int]] = {}
    for number, label in enumerate(rows["label"]):
        for each in label if isinstance(label, list) else [label]:
            found.setdefault(each, []).append(number)
    return found


def classes_of_model(config: ClassificationConfig) -> list[str]:
    """The classes of a pretrained model that is a classifier already; [] of any other."""
    if config.model_name_or_path is None:
        return []
    model_config: Any = load.load_model_config(config)
    classifies = any("ForSequenceClassification" in name for name in model_config.architectures or ())
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


# ---- examples


def load_tokenizer(rows: "Dataset", config: ClassificationConfig) -> PreTrainedTokenizerBase:
    """The tokenizer that `config` names or the model brings along, else one learnt from the texts of `rows`; with a
    token to pad with."""
    tokenizer = load.load_tokenizer(config)
    if tokenizer is None:
        tokenizer = learn_tokenizer(rows.remove_columns("label"), config.vocab_size)
        tokenizer.model_input_names = ["input_ids", "attention_mask"]  # our model knows no token types
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"{type(tokenizer).__name__} has no pad token: set one, or choose tokenizer_name_or_path")
        tokenizer.pad_token = tokenizer.eos_token  # never looked at: the attention mask says what is padding
    return tokenizer


def tokenize(
    rows: "Dataset", tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int], config: ClassificationConfig
) -> "Dataset":
    """Rows as examples {"input_ids": (T,), ["token_type_ids": (T,),] "length", "labels"}: `length` counts the tokens
    before truncation, `labels` is a class's number, the numbers of all labels, or the number to be said.

    Kept on disk as `text.tokenized` does; the attribute `truncated` is how many texts were cut, which the log says too.
    """
    typed = "token_type_ids" in tokenizer.model_input_names

    def number(label: Any) -> Any:
        return [ids[each] for each in label] if isinstance(label, list) else ids.get(label, label)

    def convert(batch: dict[str, list[Any]]) -> tuple[dict[str, list[Any]], dict[str, int]]:
        columns, whole = encode(tokenizer, batch["text"], batch.get("text_pair"), config.max_seq_length)
        columns |= {"length": whole, "labels": [number(label) for label in batch["label"]]}
        return columns, {"truncated": sum(length > config.max_seq_length for length in whole)}

    columns = [("input_ids", TOKENS), ("length", pa.int32()), ("labels", ID_TYPE[config.problem_type])]
    examples = tokenized(
        rows,
        tokenizer,
        convert,
        schema=pa.schema([*columns, *([("token_type_ids", TOKENS)] if typed else [])]),
        arguments=[config.max_seq_length, dict(ids), config.problem_type],
    )
    examples.truncated = examples.counts["truncated"]
    if examples.truncated:
        logger.warning(
            "%s%d of %d texts (%.1f %%) are longer than max_seq_length = %d and are truncated",
            *(of_split(rows), examples.truncated, len(examples), 100 * examples.truncated / len(examples)),
            config.max_seq_length,
        )
    return examples


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None, max_length: int
) -> tuple[dict[str, list[Any]], list[int]]:
    """Token ids and, if the model is given them, types of each text or pair; and how many there were before the longer
    text of a pair was cut to fit: those that need it are encoded again, by the tokenizer's own rules."""
    kept = [name for name in tokenizer.model_input_names if name in ("input_ids", "token_type_ids")]
    encoded = tokenizer(texts, pairs, verbose=False)
    columns = {name: list(encoded[name]) for name in kept}
    whole = [len(tokens) for tokens in columns["input_ids"]]
    if long := [row for row, length in enumerate(whole) if length > max_length]:
        cut = tokenizer(
            [texts[row] for row in long],
            None if pairs is None else [pairs[row] for row in long],
            truncation=True,
            max_length=max_length,
        )
        for name in kept:
            for row, values in zip(long, cut[name], strict=True):
                columns[name][row] = values
    return columns, whole


def collate(
    examples: Sequence[Mapping[str, Any]], *, pad_token_id: int, problem: str, classes: int, typed: bool
) -> Batch:
    """Padded on the right: input_ids, attention_mask and, if `typed`, token_type_ids (B, T); labels (B,) int64,
    (B, K) 0.0 or 1.0 of several labels, (B,) float32 of numbers."""
    ids = [torch.as_tensor(example["input_ids"]) for example in examples]
    batch = {
        "input_ids": pad(ids, pad_token_id),
        "attention_mask": pad([torch.ones_like(tokens) for tokens in ids], 0),
    }
    if typed:
        batch["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0)
    labels = [example["labels"] for example in examples]
    if problem == "multi_label_classification":
        batch["labels"] = torch.from_numpy(indicators(labels, classes)).float()
    else:
        batch["labels"] = torch.tensor(labels, dtype=torch.float32 if problem == "regression" else torch.int64)
    return batch


def indicators(labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """(N, K) int64: 1 where a row has the label."""
    told = np.zeros((len(labels), classes), dtype=np.int64)
    for row, each in zip(told, labels, strict=True):
        row[list(each)] = 1
    return told


def references(examples: "Dataset", problem: str, classes: int) -> np.ndarray:
    """What is right, as metrics want it: (N,) class numbers, (N, K) 0 or 1, or (N,) numbers."""
    labels = examples["labels"]
    return indicators(labels, classes) if problem == "multi_label_classification" else np.asarray(labels)


def weights(examples: "Dataset", names: Sequence[str], config: ClassificationConfig) -> torch.Tensor | None:
    """(K,) weights of the classes in the training loss, or None where all are 1.

    Of one class of several they are scaled so that the training rows' mean weight is 1: a step's loss is divided by its
    rows, so a row counts the same whatever others are in its step. Of several labels they are those of the rows that
    have the label, against 1 of the rows that have not.

    Raises:
        ValueError: a class that is not there.
    """
    if not config.balance_classes and not config.class_weights:
        return None
    if problem := load.unknown_key(config.class_weights, names, "the set of classes"):
        raise ValueError(f"class_weights: {problem}")
    several = config.problem_type == "multi_label_classification"
    counted = Counter(each for label in examples["labels"] for each in (label if several else [label]))
    counts = np.array([counted[number] for number in range(len(names))], dtype=np.float64)
    if config.class_weights:
        chosen = np.array([config.class_weights.get(name, 1.0) for name in names], dtype=np.float64)
    else:
        chosen = (len(examples) - counts if several else 1) / np.maximum(counts, 1)
    if not several:
        mean = (chosen * counts).sum() / counts.sum()
        if mean == 0:
            raise ValueError("class_weights: every training row has the weight 0")
        chosen = chosen / mean
    return torch.tensor(chosen, dtype=torch.float32)
