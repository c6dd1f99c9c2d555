"""Log-mel spectrograms as models of speech synthesis use them, and the way back to a wave without a trained vocoder.

Shapes: T samples, F frames, K frequencies of the Fourier transform, M mel bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

FLOOR = 1e-10  # least magnitude of a band, as in transformers and ESPnet: a logarithm of -10
AUDIBLE = 1e-4  # below it nothing is heard beside speech
LOWEST, HIGHEST = 60.0, 500.0  # Hz of a voice
VOICED = 0.45  # share of a frame's energy that repeats itself if it is voiced


@dataclass(frozen=True)
class LogMel:
    """How a wave becomes a spectrogram: log10 of the magnitudes in bands of Slaney's mel scale, as in transformers'
    SpeechT5FeatureExtractor and ESPnet. `window` and `hop` are samples, `low` and `high` Hz; `floor` is the least
    magnitude of a band."""

    rate: int = 16_000
    window: int = 1024
    hop: int = 256
    bands: int = 80
    low: float = 80.0
    high: float = 7600.0
    floor: float = FLOOR

    @classmethod
    def at(cls, rate: int, floor: float = FLOOR) -> LogMel:
        """The usual settings for so many samples per second: frames of 64 ms every 16 ms, or of 1,024 samples."""
        window = 1024 if rate >= 16_000 else 512
        return cls(rate, window, window // 4, high=min(7600.0, 0.475 * rate), floor=floor)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> LogMel:
        """The settings of a `preprocessor_config.json`, whose lengths are milliseconds."""
        rate = int(settings["sampling_rate"])
        window, hop = (int(settings[name]) * rate // 1000 for name in ("win_length", "hop_length"))
        bands, floor = int(settings["num_mel_bins"]), settings.get("mel_floor", FLOOR)
        return cls(rate, window, hop, bands, settings["fmin"], settings["fmax"], floor)

    @cached_property
    def filters(self) -> torch.Tensor:
        """(K, M)."""
        frequencies = self.points // 2 + 1
        bank = mel_filter_bank(
            frequencies, self.bands, self.low, self.high, self.rate, norm="slaney", mel_scale="slaney"
        )
        return torch.from_numpy(bank.astype(np.float32))

    @property
    def points(self) -> int:
        """The length of the Fourier transform: a power of two, not below the window."""
        return 1 << (self.window - 1).bit_length()

    @cached_property
    def shape(self) -> torch.Tensor:
        """The window, in the middle of `points`."""
        return torch.hann_window(self.window, periodic=True)

    def transform(self, wave: torch.Tensor) -> torch.Tensor:
        """(K, F) complex."""
        return torch.stft(
            wave, self.points, self.hop, self.window, self.shape, center=True, pad_mode="reflect", return_complex=True
        )

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """(T,) -> (F, M) float32; F = 1 + T // hop."""
        short = self.points // 2 + 1 - len(wave)
        padded = np.pad(wave, (0, max(0, short)))
        magnitudes = self.transform(torch.from_numpy(np.ascontiguousarray(padded, np.float32))).abs()
        bands = self.filters.T @ magnitudes
        return bands.clamp_min(self.floor).log10().T.numpy()[: 1 + len(wave) // self.hop]

    @cached_property
    def inverse(self) -> torch.Tensor:
        """(M, K) pseudo-inverse of the bands."""
        return torch.linalg.pinv(self.filters)

    def wave(self, mel: np.ndarray, iterations: int = 48) -> np.ndarray:
        """(F, M) -> (T,) float32 by Griffin and Lim (1984), with the momentum of Perraudin et al. (2013): it looks for
        phases with which the overlapping frames agree. They start from a fixed seed, so the same spectrogram gives the
        same wave."""
        samples = self.hop * max(1, len(mel) - 1)
        short = self.points // self.hop + 1 - len(mel)  # the transform needs a whole window
        mel = np.pad(mel, ((0, max(0, short)), (0, 0)), constant_values=np.log10(self.floor))
        magnitudes = (self.inverse.T @ torch.from_numpy(10.0 ** np.asarray(mel, np.float32)).T).clamp_min(1e-7)
        angles = torch.rand(magnitudes.shape, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
        phases, before = torch.polar(torch.ones_like(angles), angles), torch.zeros_like(angles, dtype=torch.complex64)
        for _ in range(iterations):
            rebuilt = self.transform(self._overlap(magnitudes * phases))
            wanted = rebuilt + 0.99 * (rebuilt - before)
            phases, before = wanted / wanted.abs().clamp_min(1e-12), rebuilt
        wave: np.ndarray = self._overlap(magnitudes * phases).numpy()[:samples]
        loudest = float(np.abs(wave).max(initial=0))
        return wave / loudest * 0.99 if loudest > 0.99 else wave

    def _overlap(self, spectrum: torch.Tensor) -> torch.Tensor:
        samples = self.hop * (spectrum.shape[1] - 1)
        return torch.istft(spectrum, self.points, self.hop, self.window, self.shape, center=True, length=samples)

    def pitch(self, wave: np.ndarray, frames: int) -> np.ndarray:
        """(frames,) Hz of the voice at each frame, 0 where it is unvoiced: the highest peak of the normalised
        autocorrelation."""
        shortest, longest = int(self.rate / HIGHEST), int(self.rate / LOWEST)
        size = 2 * longest
        padded = np.pad(wave, (size // 2, size // 2 + self.hop * frames))
        starts = np.arange(frames) * self.hop
        parts = np.lib.stride_tricks.sliding_window_view(padded, size)[starts].astype(np.float64)
        parts = parts - parts.mean(axis=1, keepdims=True)
        correlation = np.fft.irfft(np.abs(np.fft.rfft(parts, 2 * size)) ** 2)[:, : longest + 1]
        correlation *= size / (size - np.arange(longest + 1))  # fewer samples overlap at a longer lag
        shares = correlation[:, shortest:] / np.maximum(correlation[:, :1], 1e-9)
        place = shares.argmax(axis=1)
        voiced = (shares[np.arange(frames), place] > VOICED) & (correlation[:, 0] > 1e-4 * correlation[:, 0].max())
        return np.where(voiced, self.rate / (place + shortest), 0.0).astype(np.float32)
