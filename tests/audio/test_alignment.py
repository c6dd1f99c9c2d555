"""An alignment is found again, and the best path is the best of all."""

from itertools import combinations

import numpy as np
import pytest

from hftrain.audio.alignment import Alignment, _fit, align, learn

pytestmark = pytest.mark.unit


def test_the_true_durations_are_found():
    draw = np.random.default_rng(0)
    sounds = draw.normal(0, 3, (9, 12))
    features, tokens, durations = [], [], []
    for _ in range(40):
        ids = draw.permutation(9)[:5]
        lengths = draw.integers(2, 9, 5)
        features.append(sounds[ids].repeat(lengths, axis=0) + draw.normal(0, 1, (lengths.sum(), 12)))
        tokens.append(ids)
        durations.append(lengths)
    found = align(features, tokens, learn(features, tokens, 9))
    wrong = np.mean(
        [np.abs(np.cumsum(one) - np.cumsum(other)).mean() for one, other in zip(found, durations, strict=True)]
    )
    assert wrong < 0.1  # frames


def test_the_path_is_the_best_of_all_paths():
    draw = np.random.default_rng(1)
    gaussians = Alignment(draw.normal(size=(6, 3)), draw.uniform(0.5, 2, (6, 3)))
    recordings = [
        (draw.normal(size=(frames, 3)), draw.integers(0, 6, count)) for frames, count in [(9, 4), (5, 5), (7, 1)]
    ]
    found = align(*map(list, zip(*recordings, strict=True)), gaussians)
    for (frames, ids), durations in zip(recordings, found, strict=True):
        fit = _fit(frames, ids, gaussians)

        def value(lengths, fit=fit):
            return fit[np.arange(len(fit)), np.arange(len(lengths)).repeat(lengths)].sum()

        cuts = combinations(range(1, len(frames)), len(ids) - 1)
        best = max(value(np.diff([0, *cut, len(frames)])) for cut in cuts)
        assert durations.sum() == len(frames) and durations.min() >= 1
        assert value(durations) == pytest.approx(best)
