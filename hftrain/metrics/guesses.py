"""What a guess that looks at no input scores: the least that a model has to beat."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hftrain.metrics.checks import some

MOST = 20_000  # sequences that are counted


def unigram_loss(training: Sequence[Any], held_out: Sequence[Any], vocabulary: int, ignored: int = -100) -> float:
    """The mean -log p of the tokens of `held_out`, where p is how often a token is in `training`, whatever comes before
    it. One more is counted of each token of the vocabulary, for those that training lacks.

    Args:
        training, held_out: a sequence of labels for each example; of many, 20,000 evenly spread ones are counted.
        ignored: a label that is not learnt.
    """
    seen, asked = (_counts(sequences, vocabulary, ignored) for sequences in (training, held_out))
    some(int(asked.sum()))
    return float(asked @ (np.log(seen.sum() + vocabulary) - np.log(seen + 1)) / asked.sum())


def _counts(sequences: Sequence[Any], vocabulary: int, ignored: int) -> np.ndarray:
    """(V,) how often each token is in them."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for place in np.unique(np.linspace(0, len(sequences) - 1, min(MOST, len(sequences))).astype(int)).tolist():
        labels = np.asarray(sequences[place])
        counts += np.bincount(labels[labels != ignored], minlength=vocabulary)[:vocabulary]
    return counts
