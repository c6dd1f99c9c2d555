"""Augmented waves: seeded, never longer than the model hears, as loud and as noisy as asked."""

import numpy as np
import pytest

from hftrain.audio.augment import Augmentation

pytestmark = pytest.mark.unit

RATE = 8000
WAVE = (0.3 * np.sin(np.arange(RATE) * 0.3)).astype(np.float32)


def vary(seed: int = 0, longest: float | None = None, shortest: float = 0.0, **settings) -> np.ndarray:
    np.random.seed(seed)
    return Augmentation(**settings)(WAVE, RATE, longest, shortest)


def test_a_wave_stays_as_it_is_without_settings():
    assert np.array_equal(vary(), WAVE)


def test_speed_changes_the_length_within_its_share():
    lengths = [len(vary(seed, speed=0.1)) / RATE for seed in range(20)]
    assert 0.9 < min(lengths) < 0.97 and 1.03 < max(lengths) < 1.12
    assert 0.95 * RATE <= min(len(vary(seed, shortest=0.95, speed=0.1)) for seed in range(20)) < 0.99 * RATE


def test_nothing_makes_a_wave_longer_than_the_model_hears():
    for seed in range(20):
        assert len(vary(seed, 1.02, speed=0.2, shift=0.5)) <= 1.02 * RATE


def test_gain_and_noise_are_as_loud_as_asked():
    ratios = [20 * np.log10(np.abs(vary(seed, gain=6)).max() / np.abs(WAVE).max()) for seed in range(20)]
    assert -6.01 < min(ratios) < -3 and 3 < max(ratios) < 6.01
    noise = [vary(seed, noise=1.0, snr=10) - WAVE for seed in range(20)]
    decibels = [10 * np.log10(np.square(WAVE).mean() / np.square(one).mean()) for one in noise]
    assert 9.8 < min(decibels) < 16 and 24 < max(decibels) < 30.2


def test_masks_are_shares_within_the_whole():
    np.random.seed(0)
    masks = Augmentation(time_masks=3, band_masks=2).masks()
    assert len(masks.times) == 3 and len(masks.bands) == 2
    assert all(start >= 0 and start + width <= 1 for start, width in masks.times + masks.bands)
    assert max(width for _, width in masks.times) <= 0.1
