"""Recordings for people: a player and a picture of the spectrogram in a report."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from hftrain.report.page import Picture, Sound

# from silence to loud, as (red, green, blue)
COLOURS = np.array([(8, 8, 32), (78, 22, 110), (190, 55, 85), (250, 150, 40), (255, 250, 190)], np.float64)
RANGE = 5.0  # log10 of magnitudes from the darkest to the brightest: 100 dB
WIDEST = 480  # pixels


def player(wave: np.ndarray, rate: int) -> Sound:
    """(T,) float samples in [-1, 1]."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype="PCM_16")
    return Sound(file.getvalue())


def spectrogram(mel: np.ndarray, loudest: float | None = None) -> Picture:
    """(F, M) log10 of magnitudes: time to the right, high frequencies on top; `loudest` is the brightest value (None:
    the largest)."""
    top = float(mel.max()) if loudest is None else loudest
    levels = np.clip(1 + (mel.T[::-1] - top) / RANGE, 0, 1) * (len(COLOURS) - 1)
    grid = np.arange(len(COLOURS))
    pixels = np.stack([np.interp(levels, grid, COLOURS[:, channel]) for channel in range(3)], axis=-1)
    image = Image.fromarray(pixels.astype(np.uint8))
    times = max(1, min(3, WIDEST // image.width))
    image = image.resize((min(WIDEST, image.width * times), image.height))
    file = io.BytesIO()
    image.save(file, "PNG")
    return Picture(file.getvalue())
