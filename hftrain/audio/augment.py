"""Training recordings that are a little different each time.

All draws come from NumPy's global generator, which `fit` seeds for each example of a step: the same in any cut of it.

Shapes: T samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Masks(NamedTuple):
    """Parts that SpecAugment covers, (start, width) as shares of the time and of the mel bands."""

    times: list[tuple[float, float]]
    bands: list[tuple[float, float]]


@dataclass(frozen=True)
class Augmentation:
    """What is done to a wave, in this order.

    Args:
        speed: the speed is 1 - this to 1 + this times the old one, the pitch with it (Ko et al. 2015).
        shift: silence of up to this many seconds before the wave.
        gain: up to this many decibels louder or softer.
        noise: probability of white noise, at a signal-to-noise ratio of `snr` to `snr` + 20 decibels.
        time_masks, band_masks: spans that are covered (SpecAugment, arXiv 1904.08779), each of up to a tenth of the
            time, or a fifth of the bands.
    """

    speed: float = 0.0
    shift: float = 0.0
    gain: float = 0.0
    noise: float = 0.0
    snr: float = 10.0
    time_masks: int = 0
    band_masks: int = 0

    def __call__(self, wave: np.ndarray, rate: int, longest: float | None = None, shortest: float = 0.0) -> np.ndarray:
        """(T,) float32, of `shortest` to `longest` seconds: what would make it shorter or longer is left out."""
        import soxr

        room = float("inf") if longest is None else longest * rate
        if self.speed:
            factor = np.random.uniform(1 - self.speed, 1 + self.speed)
            if min(shortest * rate, len(wave)) <= len(wave) / factor <= room - 1:
                wave = soxr.resample(wave, round(rate * factor), rate).astype(np.float32)
        if self.shift:
            before = min(int(np.random.uniform(0, self.shift) * rate), max(0, int(min(room, 1e12)) - len(wave)))
            wave = np.concatenate([np.zeros(before, np.float32), wave])
        if self.gain:
            wave = wave * np.float32(10 ** (np.random.uniform(-self.gain, self.gain) / 20))
        if np.random.random() < self.noise:
            power = float(np.square(wave).mean()) / 10 ** (np.random.uniform(self.snr, self.snr + 20) / 10)
            wave = wave + np.random.normal(0, power**0.5, len(wave)).astype(np.float32)
        return wave

    def masks(self) -> Masks:
        return Masks(_spans(self.time_masks, 0.1), _spans(self.band_masks, 0.2))


def _spans(count: int, widest: float) -> list[tuple[float, float]]:
    widths = np.random.uniform(0, widest, count).tolist()
    return [(float(np.random.uniform(0, 1 - width)), width) for width in widths]
