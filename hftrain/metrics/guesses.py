"""What a guess that looks at no input scores: the least that a model has to beat."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

IGNORED = -100  # a label that is not learnt
MOST = 5_000  # examples that are counted


def unigram_guess(training: Sequence[Any], held_out: Sequence[Any], vocabulary: int) -> dict[str, float]:
    """The loss and the perplexity of guessing each token of `held_out` by how often it is in `training`, whatever comes
    before it. One more is counted of each token of the vocabulary, for those that training lacks.

    Args:
        training, held_out: sequences of examples with "labels"; of many, 5,000 evenly spread ones are counted.

    Returns:
        {"loss", "perplexity"}; {} if nothing is to be predicted.
    """
    seen, asked = _counts(training, vocabulary), _counts(held_out, vocabulary)
    if not asked.sum():
        return {}
    loss = float(asked @ (np.log(seen.sum() + vocabulary) - np.log(seen + 1)) / asked.sum())
    return {"loss": loss, "perplexity": math.exp(min(loss, 700))}


def _counts(examples: Sequence[Any], vocabulary: int) -> np.ndarray:
    """(V,) how often each token is a label."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    places = np.linspace(0, len(examples) - 1, min(MOST, len(examples))).astype(int)
    for place in places.tolist():
        labels = np.asarray(examples[place]["labels"])
        counts += np.bincount(labels[labels != IGNORED], minlength=vocabulary)[:vocabulary]
    return counts
