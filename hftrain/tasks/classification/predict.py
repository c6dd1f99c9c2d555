"""Labels with probabilities, or a number, of texts or of pairs of texts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftrain.labels.predict import problem_of, say
from hftrain.models.fit import longest_text
from hftrain.models.saved import load, recall, refuse_nan, warn_of_cuts

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def classify(
    folder: Path,
    config: PreTrainedConfig,
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
    import numpy as np

    from hftrain.data.examples import Examples
    from hftrain.labels import scoring
    from hftrain.tasks.classification.examples import encode
    from hftrain.tasks.classification.model import model_collator
    from hftrain.train.evaluation import OneProcess

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
    problem = problem_of(config)
    columns, lengths = encode(tokenizer, [texts[i] for i in told], seconds, most)
    warn_of_cuts(lengths, most)
    rows = ({name: values[i] for name, values in columns.items()} for i in range(len(told)))
    unlabelled: dict[str, Any] = {"labels": [] if problem == "multi_label_classification" else 0}
    collate = model_collator(tokenizer, model, problem)
    examples = Examples([row | unlabelled for row in rows], np.array(lengths).clip(max=most))
    one = OneProcess(device)
    outputs = scoring.score(one, model, examples, batch_size, collate=collate, problem=problem).outputs
    refuse_nan(outputs.flatten().tolist(), folder)
    decided = scoring.decide(outputs, problem, recall(config, "thresholds") or ())
    names: Any = config.id2label
    for i, row, decision in zip(told, outputs.tolist(), decided, strict=True):
        found[i] = say(row, decision, problem, names)
    return found
