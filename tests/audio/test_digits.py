"""The built-in spoken digits: the same each time, different from one another, and heard as what they are."""

import numpy as np
import pytest

from hftrain.audio.digits import RATE, SPEAKERS, WORDS, synthesise

pytestmark = pytest.mark.unit


def envelope(wave: np.ndarray) -> np.ndarray:
    """(8, 16) energies of eight parts of the wave, in bands, without their loudness."""
    parts = [np.abs(np.fft.rfft(part, 4096)) for part in np.array_split(wave, 8)]
    bands = np.log(np.array([[band.mean() for band in np.array_split(part[: 4096 // 2], 16)] for part in parts]) + 1e-3)
    return bands - bands.mean()


def test_a_seed_gives_the_same_waves():
    first, again, other = (synthesise([[3, 7]], SPEAKERS[:1], np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and len(first) / RATE == pytest.approx(0.9, abs=0.4)
    assert len(first) != len(other) or not np.array_equal(first, other)
    assert np.isfinite(first).all() and 0.29 < np.abs(first).max() < 0.81


def test_a_spread_of_0_leaves_noise_and_loudness():
    alike, usual = (synthesise([[7]] * 3, SPEAKERS[:1] * 3, np.random.default_rng(1), spread) for spread in (0.0, 1.0))
    assert len({len(wave) for wave in alike}) == 1 and len({len(wave) for wave in usual}) > 1
    assert not np.array_equal(alike[0], alike[1])


def test_a_digit_sounds_like_itself_from_other_mouths():
    draw, digits = np.random.default_rng(0), list(range(10))
    known = [envelope(wave) for wave in synthesise([[digit] for digit in digits], [SPEAKERS[2]] * 10, draw)]
    heard = [envelope(wave) for wave in synthesise([[digit] for digit in digits], [SPEAKERS[3]] * 10, draw)]
    nearest = [int(np.argmin([np.square(one - other).sum() for other in known])) for one in heard]
    assert sum(digit == near for digit, near in zip(digits, nearest, strict=True)) >= 8, [WORDS[n] for n in nearest]
