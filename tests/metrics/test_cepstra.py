"""The mel-cepstral distance: its definition, and its warping beside all paths."""

import numpy as np
import pytest
from scipy.fft import dct

from hftrain.metrics.cepstra import cepstra, distance

pytestmark = pytest.mark.unit


def test_cepstra_are_the_cosine_transform():
    mel = np.random.default_rng(0).normal(-2, 1, (5, 80))
    expected = dct(2 * np.log(10) * mel, axis=1) / (2 * 80)  # of the energies: twice the logarithm of magnitudes
    np.testing.assert_allclose(cepstra(mel), expected[:, :14], rtol=1e-9, atol=1e-12)


def test_a_smooth_change_is_its_root_mean_square_in_decibels():
    mel = np.full((7, 80), -2.0)
    ripple = 0.1 * np.cos(np.pi * 3 * (np.arange(80) + 0.5) / 80)  # of log10 magnitudes: 2 dB at its peak
    assert distance(mel, mel + ripple) == pytest.approx(2 / np.sqrt(2))
    assert distance(mel, mel + 0.5) == pytest.approx(0, abs=1e-6)  # louder


def test_slower_speech_is_no_distance_but_another_order_is():
    mel = np.random.default_rng(0).normal(-2, 1, (6, 80))
    assert distance(mel, mel.repeat([1, 3, 1, 2, 1, 2], axis=0)) == pytest.approx(0, abs=1e-5)
    assert distance(mel, mel[::-1]) > 1


def test_the_warping_is_the_best_of_all():
    draw = np.random.default_rng(0)
    left, right = draw.normal(-2, 1, (4, 20)), draw.normal(-2, 1, (5, 20))
    costs = np.array([[distance(one[None], other[None]) for other in right] for one in left])

    def paths(row, column, total, steps):
        total, steps = total + costs[row, column], steps + 1
        if (row, column) == (3, 4):
            yield total, steps
        for down, across in ((1, 1), (1, 0), (0, 1)):
            if row + down < 4 and column + across < 5:
                yield from paths(row + down, column + across, total, steps)

    total, steps = min(paths(0, 0, 0.0, 0))
    assert distance(left, right) == pytest.approx(total / steps)
