"""Which frames of a recording belong to which token of its text, learnt from the recordings alone.

Each token has a Gaussian over frames. From an even cut of each recording, two steps take turns: the Gaussians of the
frames that each token has, and the best monotonic path of each recording under these Gaussians. This is the training of
Viterbi for hidden Markov models (segmental k-means, Juang and Rabiner 1990); the path is the monotonic alignment search
of Glow-TTS (arXiv 2005.11129).

Shapes: B recordings, N tokens of a text, F frames, M features of a frame, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ROUNDS = 12
AT_ONCE = 64  # recordings, of similar length
LEAST = 0.05  # of a token's variance, as a share of that of all frames
PRIOR = 4.0  # frames of the mean of all that each token has beside its own


class Alignment(NamedTuple):
    """Means and variances (V, M) of the frames of each token."""

    means: np.ndarray
    variances: np.ndarray


def learn(features: Sequence[np.ndarray], tokens: Sequence[np.ndarray], vocabulary: int) -> Alignment:
    """Of recordings (F, M) and their tokens (N,), N <= F."""
    durations = [_even(len(frames), len(ids)) for frames, ids in zip(features, tokens, strict=True)]
    gaussians = _gaussians(features, tokens, durations, vocabulary)
    for _ in range(ROUNDS):
        before, durations = durations, align(features, tokens, gaussians)
        gaussians = _gaussians(features, tokens, durations, vocabulary)
        if all(np.array_equal(*pair) for pair in zip(before, durations, strict=True)):
            break
    return gaussians


def align(features: Sequence[np.ndarray], tokens: Sequence[np.ndarray], gaussians: Alignment) -> list[np.ndarray]:
    """The frames of each token (N,), at least one, of each recording."""
    durations: list[np.ndarray] = [np.zeros(0, np.int64)] * len(features)
    order = np.argsort([len(frames) for frames in features], kind="stable")
    for start in range(0, len(order), AT_ONCE):
        part = order[start : start + AT_ONCE]
        for number, path in zip(
            part, _best_paths([_fit(features[i], tokens[i], gaussians) for i in part]), strict=True
        ):
            durations[number] = path
    return durations


def _even(frames: int, count: int) -> np.ndarray:
    return np.diff(np.linspace(0, frames, count + 1).round().astype(np.int64))


def _gaussians(
    features: Sequence[np.ndarray], tokens: Sequence[np.ndarray], durations: Sequence[np.ndarray], vocabulary: int
) -> Alignment:
    size = features[0].shape[1]
    count, first, second = np.zeros((vocabulary, 1)), np.zeros((vocabulary, size)), np.zeros((vocabulary, size))
    for frames, ids, lengths in zip(features, tokens, durations, strict=True):
        owners = ids.repeat(lengths)
        np.add.at(count, owners, 1)
        np.add.at(first, owners, frames)
        np.add.at(second, owners, frames**2)
    mean = first.sum(axis=0) / count.sum()
    variance = second.sum(axis=0) / count.sum() - mean**2
    count, first, second = count + PRIOR, first + PRIOR * mean, second + PRIOR * (variance + mean**2)
    means = first / count
    return Alignment(means, np.maximum(second / count - means**2, LEAST * variance))


def _fit(frames: np.ndarray, ids: np.ndarray, gaussians: Alignment) -> np.ndarray:
    """(F, N) log-likelihood of each frame under each token of the text."""
    mean, precision = gaussians.means[ids], 1 / gaussians.variances[ids]
    distance = frames**2 @ precision.T - 2 * frames @ (mean * precision).T + (mean**2 * precision).sum(axis=1)
    return -0.5 * (distance - np.log(precision).sum(axis=1))


def _best_paths(fits: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The durations (N,) of the best path through each (F, N): it starts at the first token, ends at the last, and each
    frame stays or moves to the next."""
    frames, count = max(len(fit) for fit in fits), max(fit.shape[1] for fit in fits)
    padded = np.full((frames, len(fits), count), -np.inf)
    for number, fit in enumerate(fits):
        padded[: len(fit), number, : fit.shape[1]] = fit
    came = np.zeros((frames, len(fits), count), bool)
    best = np.full((len(fits), count), -np.inf)
    best[:, 0] = padded[0, :, 0]
    for frame in range(1, frames):
        before = np.concatenate([np.full((len(fits), 1), -np.inf), best[:, :-1]], axis=1)
        came[frame] = before > best
        best = np.maximum(before, best) + padded[frame]
    durations = []
    for number, fit in enumerate(fits):
        lengths, place = np.zeros(fit.shape[1], np.int64), fit.shape[1] - 1
        for frame in range(len(fit) - 1, -1, -1):
            lengths[place] += 1
            place -= int(came[frame, number, place])
        durations.append(lengths)
    return durations
