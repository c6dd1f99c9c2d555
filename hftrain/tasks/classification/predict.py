"""Labels with probabilities, or a number, for texts or pairs of texts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from hftrain.labels.predict import no_label, predictions, problem_of
from hftrain.models.fit import longest_text
from hftrain.models.saved import Saved, load, recall, warn_of_cuts


def classify(saved: Saved, texts: Sequence[str], pairs: Sequence[str] | None, batch_size: int) -> list[Any]:
    """The prediction for each text, by `config.problem_type`:

    - one class: {"label": its name, "probability": ..., "probabilities": {name: ...}};
    - several labels: {"labels": [those that reach their threshold], "probabilities": {name: ...}}; the thresholds are
      those of the configuration, or 0.5;
    - regression, or any model with one output: the number.

    None for an empty text. Texts longer than in training are truncated; stderr shows how many.

    Raises:
        ValueError: the texts are pairs but the model was trained on single ones, or vice versa.
    """
    import numpy as np

    from hftrain.data.examples import Examples
    from hftrain.tasks.classification.examples import encode
    from hftrain.tasks.classification.model import model_collator

    folder, config = saved.folder, saved.config
    trained = recall(config, "classification") or {}  # unknown for models of other libraries
    if trained.get("pairs") and pairs is None:
        raise ValueError(
            f"{folder} was trained on pairs of texts: give the second with --context, or a file with both "
            "(--file F --column ONE --pair_column OTHER)"
        )
    if trained.get("pairs") is False and pairs is not None:
        raise ValueError(f"{folder} was trained on single texts: remove pairs (--pair_column, --context)")
    model, tokenizer, device = load(saved, "AutoModelForSequenceClassification")
    most = min(longest_text(model, tokenizer), trained.get("max_seq_length", sys.maxsize))
    filled = [i for i, text in enumerate(texts) if text.strip()]
    if empty := len(texts) - len(filled):
        print(f"{empty} of {len(texts)} texts are empty and get no prediction", file=sys.stderr)
    if not filled:
        return [None] * len(texts)
    seconds = None if pairs is None else [pairs[i] for i in filled]
    problem = problem_of(config)
    columns, lengths = encode(tokenizer, [texts[i] for i in filled], seconds, most)
    warn_of_cuts(lengths, most)
    rows = ({name: values[i] for name, values in columns.items()} for i in range(len(filled)))
    collate = model_collator(tokenizer, model, problem)
    examples = Examples([row | no_label(problem) for row in rows], np.array(lengths).clip(max=most))
    known = dict(zip(filled, predictions(saved, model, device, examples, batch_size, collate), strict=True))
    return [known.get(i) for i in range(len(texts))]
