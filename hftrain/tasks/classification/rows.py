"""Rows with labels, the classes there are, and examples of token ids.

Shapes: B examples of a batch, T tokens, K classes or labels (1 for regression).
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from hftrain.data import readers
from hftrain.data.splits import load_splits
from hftrain.data.unread import Unread
from hftrain.data.written import looks_written, unwritten_or_text
from hftrain.losses import Batch
from hftrain.models import load
from hftrain.tasks.classification.config import ClassificationConfig
from hftrain.tasks.classification.labels import read_label, read_vectors
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


def padding_side(config: Any) -> str:
    """Where texts are padded for a model of this configuration: on the left if it judges by the last token (XLNet)."""
    return "left" if getattr(config, "summary_type", None) == "last" else "right"


def collate(
    examples: Sequence[Mapping[str, Any]],
    *,
    pad_token_id: int,
    problem: str,
    classes: int,
    typed: bool,
    side: str = "right",
) -> Batch:
    """Padded on a side: input_ids, attention_mask and, if `typed`, token_type_ids (B, T); labels (B,) int64,
    (B, K) 0.0 or 1.0 of several labels, (B,) float32 of numbers."""
    ids = [torch.as_tensor(example["input_ids"]) for example in examples]
    batch = {
        "input_ids": pad(ids, pad_token_id, side=side),
        "attention_mask": pad([torch.ones_like(tokens) for tokens in ids], 0, side=side),
    }
    if typed:
        batch["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0, side=side)
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
