"""Noise on token ids, for masked language models, denoising encoder-decoders and augmentation.

The functions are pure except for randomness from NumPy's global generator. The caller seeds it; the training loop does
so with (seed, step, micro-batch) before each collate. Evaluation uses `Noised`, which is the same every time.

Shapes: T tokens of one sequence.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hftrain.data.examples import Examples, fetch

IGNORE = -100  # a label that the loss ignores


def mask_tokens(
    tokens: np.ndarray,
    *,
    mask_token_id: int,
    random_ids: np.ndarray,
    free: np.ndarray | None = None,
    words: np.ndarray | None = None,
    probability: float = 0.15,
) -> tuple[np.ndarray, np.ndarray]:
    """BERT's masking (Devlin et al. 2019, section 3.1): each chosen token becomes the mask with probability 0.8, a
    random token with 0.1, and stays with 0.1.

    Exactly round(`probability` x free tokens) are chosen, without replacement, and at least one if any is free: each
    sequence teaches its share. With `words`, whole words are chosen in random order, each if it still fits into that
    number. That may be a few tokens less, or more if every word is longer than the number: then the first is chosen.

    Args:
        tokens: (T,) ids.
        random_ids: ids to draw random tokens from, usually the vocabulary without special tokens.
        free: (T,) bool, tokens that may be chosen; None: all. Exclude special tokens and padding.
        words: (T,) number of each token's word; tokens of one word share its number.

    Returns:
        input ids (T,) and labels (T,): the chosen tokens, -100 elsewhere.
    """
    free = np.ones(len(tokens), dtype=bool) if free is None else free
    candidates = np.flatnonzero(free)
    wanted = min(len(candidates), max(1, round(probability * len(candidates))))
    chosen = np.random.permutation(candidates)[:wanted] if words is None else _whole_words(candidates, words, wanted)
    inputs, labels = np.array(tokens, dtype=np.int64), np.full(len(tokens), IGNORE, dtype=np.int64)
    labels[chosen] = inputs[chosen]
    fate = np.random.random(len(chosen))
    inputs[chosen[fate < 0.8]] = mask_token_id
    replaced = chosen[fate >= 0.9]
    inputs[replaced] = np.random.choice(random_ids, len(replaced))
    return inputs, labels


def _whole_words(candidates: np.ndarray, words: np.ndarray, wanted: int) -> np.ndarray:
    """Positions of words, drawn until there are `wanted` positions; see `mask_tokens`."""
    _, number, sizes = np.unique(words[candidates], return_inverse=True, return_counts=True)
    drawn, left = np.zeros(len(sizes), dtype=bool), wanted
    order = np.random.permutation(len(sizes))
    for word in order:
        if sizes[word] <= left:
            drawn[word], left = True, left - sizes[word]
    if left == wanted and len(order):
        drawn[order[0]] = True
    return candidates[drawn[number]]


def span_corruption(
    tokens: np.ndarray, *, sentinels: Sequence[int], eos_token_id: int, density: float = 0.15, mean_span: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """T5's objective (Raffel et al. 2020, section 3.1.4): a sentinel replaces each chosen span of the text, and the
    target is each sentinel with the tokens that it replaced.

    Exactly round(`density` x T) tokens, at least 1 and at most T - 1, in round(that / `mean_span`) spans of random
    lengths, at random places with at least 1 token between them; every such division is equally likely. (T5's own code
    ends each text with a span, so a text with a single span always loses its end.)

    Args:
        tokens: (T,) ids of a text, without an end token. A single token is never hidden.
        sentinels: ids, the first for the first span (T5: <extra_id_0>, ...); with fewer, spans are fewer and longer.

    Returns:
        inputs and labels, each ending with `eos_token_id`.
    """
    tokens, end = np.asarray(tokens, dtype=np.int64), np.array([eos_token_id])
    if len(tokens) < 2:
        return np.concatenate([tokens, end]), end
    noise = int(np.clip(round(density * len(tokens)), 1, len(tokens) - 1))
    visible = len(tokens) - noise
    spans = min(max(1, round(noise / mean_span)), len(sentinels), noise, visible + 1)
    gaps, hidden = _parts(visible + 2, spans + 1), _parts(noise, spans)
    gaps[[0, -1]] -= 1  # the text may begin or end with a span
    pieces = np.split(tokens, np.cumsum(np.stack([gaps[:-1], hidden], axis=1)))
    marks = [np.array([sentinel]) for sentinel in sentinels[:spans]]
    inputs = [part for piece, mark in zip(pieces[:-1:2], marks, strict=True) for part in (piece, mark)]
    labels = [part for piece, mark in zip(pieces[1::2], marks, strict=True) for part in (mark, piece)]
    return np.concatenate([*inputs, pieces[-1], end]), np.concatenate([*labels, end])


def _parts(total: int, parts: int) -> np.ndarray:
    """(parts,) whole numbers >= 1 that sum to `total`, every such composition equally likely."""
    cuts = np.sort(np.random.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def drop_tokens(tokens: np.ndarray, probability: float, free: np.ndarray | None = None) -> np.ndarray:
    """Drops each token with `probability` (random deletion of Wei & Zou 2019, EDA); at least one stays.

    Args:
        free: (T,) bool, tokens that may be dropped; None: all.
    """
    keep = np.random.random(len(tokens)) >= probability
    if free is not None:
        keep |= ~free
    if len(tokens) and not keep.any():
        keep[np.random.randint(len(tokens))] = True
    return tokens[keep]


def swap_tokens(tokens: np.ndarray, probability: float, free: np.ndarray | None = None) -> np.ndarray:
    """round(`probability` x free tokens) times, two random tokens swap places (random swap of EDA).

    Args:
        free: (T,) bool, tokens that may move; None: all.
    """
    swapped = tokens.copy()
    places = np.arange(len(tokens)) if free is None else np.flatnonzero(free)
    if len(places) >= 2:
        for _ in range(round(probability * len(places))):
            a, b = np.random.choice(places, 2, replace=False)
            swapped[[a, b]] = swapped[[b, a]]
    return swapped


class Noised(Examples):
    """Examples with a noise that depends only on (seed, index): validation examples stay the same.

    Args:
        examples: their lengths, if they have any, must be the lengths with the noise.
        noise: example -> example; may draw from NumPy's global generator, whose state is restored.
    """

    def __init__(self, examples: Sequence[Any], noise: Callable[[Any], Any], seed: int):
        super().__init__(examples, Examples.of(examples).lengths)
        self.noise, self.seed = noise, seed

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        state = np.random.get_state()
        try:
            return [
                self._noised(index, example) for index, example in zip(indices, fetch(self.items, indices), strict=True)
            ]
        finally:
            np.random.set_state(state)

    def _noised(self, index: int, example: object) -> Any:
        np.random.seed(np.random.SeedSequence([self.seed, index]).generate_state(1))
        return self.noise(example)
