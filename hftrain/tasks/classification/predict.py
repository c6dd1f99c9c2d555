"""Labels with probabilities, or a number, of texts or of pairs of texts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from hftrain.models.fit import longest_text
from hftrain.models.saved import ADAPTER, batches, load, recall, refuse_nan, warn_of_cuts


def classify(
    folder: Path,
    config: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    batch_size: int,
    device: str | None,
    trust_remote_code: bool = False,
) -> list[Any]:
    """Of each text, as `config.problem_type` says:

    - one class: {"label": its name, "probability": ..., "probabilities": {name: ...}};
    - several labels: {"labels": [those from their threshold on], "probabilities": {name: ...}}, the thresholds being
      those of the configuration, or 0.5;
    - regression, or whatever has one output: the number.

    None of an empty text. Texts longer than those it was trained on are cut, and how many they are is said on stderr.

    Raises:
        ValueError: pairs of texts where it was trained on single ones, or the other way round.
    """
    import torch

    from hftrain.tasks.classification.examples import encode, padding_side
    from hftrain.text import pad

    trained = recall(config, "classification") or {}  # of another's model we do not know
    if trained.get("pairs") and pairs is None:
        raise ValueError(
            f"{folder} was trained on pairs of texts: give the second with --context, or name a file with both "
            "(--file F --column ONE --pair_column OTHER)"
        )
    if trained.get("pairs") is False and pairs is not None:
        raise ValueError(f"{folder} was trained on single texts: leave pairs (--pair_column, --context) away")
    model, tokenizer, device = load(folder, "AutoModelForSequenceClassification", config, device, trust_remote_code)
    most = min(longest_text(model, tokenizer), trained.get("max_seq_length", sys.maxsize))
    told = [i for i, text in enumerate(texts) if text.strip()]
    if empty := len(texts) - len(told):
        print(f"{empty} of {len(texts)} texts are empty: nothing is predicted for them", file=sys.stderr)
    found: list[Any] = [None] * len(texts)
    if not told:
        return found
    seconds = None if pairs is None else [pairs[i] for i in told]
    columns, lengths = encode(tokenizer, [texts[i] for i in told], seconds, most)
    warn_of_cuts(lengths, most)
    accepted = signature(model.get_base_model().forward if (folder / ADAPTER).is_file() else model.forward).parameters
    side = padding_side(config)
    for batch in batches(range(len(told)), lengths, batch_size):
        ids = [columns["input_ids"][i] for i in batch]
        inputs = {
            "input_ids": pad(ids, tokenizer.pad_token_id or 0, side=side),
            "attention_mask": pad([[1] * len(tokens) for tokens in ids], 0, side=side),
        }
        if "token_type_ids" in columns and "token_type_ids" in accepted:
            inputs["token_type_ids"] = pad([columns["token_type_ids"][i] for i in batch], 0, side=side)
        with torch.no_grad():
            logits = model(**{name: tensor.to(device) for name, tensor in inputs.items()}).logits.float()
        refuse_nan(logits.flatten().tolist(), folder)
        for i, row in zip(batch, logits, strict=True):
            found[told[i]] = say(row, config)
    return found


def say(logits: Any, config: Any) -> Any:
    """(K,) logits of one text as its prediction."""
    if config.num_labels == 1:
        return logits.item()
    several = config.problem_type == "multi_label_classification"
    scores = (logits.sigmoid() if several else logits.softmax(dim=-1)).tolist()
    probabilities = {config.id2label[number]: score for number, score in enumerate(scores)}
    if several:
        limits = recall(config, "thresholds") or [0.5] * len(scores)
        pairs = zip(probabilities.items(), limits, strict=True)
        return {"labels": [name for (name, score), limit in pairs if score >= limit], "probabilities": probabilities}
    label = max(probabilities, key=probabilities.__getitem__)
    return {"label": label, "probability": probabilities[label], "probabilities": probabilities}


def line(prediction: Any) -> str:
    """label TAB probability; of several labels those, one after the other; a number; nothing of an empty text."""
    if prediction is None:
        return ""
    if isinstance(prediction, float):
        return f"{prediction:.6g}"
    said = prediction["labels"] if "labels" in prediction else [prediction["label"]]
    return "\t".join(f"{name}\t{prediction['probabilities'][name]:.4f}" for name in said)
