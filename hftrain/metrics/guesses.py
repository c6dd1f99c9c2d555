"""Scores of a guess that reads no input: the baseline of a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hftrain.metrics.perplexity import readings

IGNORED = -100  # a label that the loss ignores
MOST = 5_000  # maximum examples that are counted


def unigram_guess(training: Sequence[Any], held_out: Sequence[Any], vocabulary: int) -> dict[str, float]:
    """The loss and the perplexity of guessing each token of `held_out` by its frequency in `training`, without context.
    Each count is increased by one, for tokens that training lacks.

    Args:
        training, held_out: sequences of examples with "labels"; if there are more than 5,000, evenly spread ones are
            counted.

    Returns:
        {"loss", "perplexity"}; {} without labels.
    """
    seen, targets = _counts(training, vocabulary), _counts(held_out, vocabulary)
    if not targets.sum():
        return {}
    loss = float(targets @ (np.log(seen.sum() + vocabulary) - np.log(seen + 1)) / targets.sum())
    return readings(loss)


def _counts(examples: Sequence[Any], vocabulary: int) -> np.ndarray:
    """(V,) how often each token is a label."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    places = np.linspace(0, len(examples) - 1, min(MOST, len(examples))).astype(int)
    for place in places.tolist():
        labels = np.asarray(examples[place]["labels"])
        counts += np.bincount(labels[labels != IGNORED], minlength=vocabulary)[:vocabulary]
    return counts
