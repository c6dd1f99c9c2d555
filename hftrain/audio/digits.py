"""Spoken digits without a download: a formant synthesiser after Klatt (JASA 67, 1980), its resonators in parallel.

A word is a list of sounds; a sound has a length, three formants, the strength of the voice and of noise, and the place
of the noise. Speakers differ in pitch, length of the vocal tract (which scales all formants), rate and breath.

Shapes: N recordings that are computed at once, T samples, F frames of 5 ms, 4 resonators (three formants and noise).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hftrain.data.files import cache, make_once

RATE, FRAME = 16_000, 80  # samples per second, and of a frame
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = {"train": 900, "validation": 120, "test": 200}  # recordings
OF_A_VOICE = {"train": 300, "validation": 40, "test": 100}
AT_ONCE = 200  # recordings, for memory
MOST = 4  # digits of a string
SMOOTH = 7  # frames over which one sound becomes the next
# name, milliseconds, formants 1 to 3 in Hz, strength of the voice and of noise, centre of the noise in Hz
TABLE = """
z   80  280 1700 2600 0.50 0.50 5200
s  110  280 1700 2600 0.00 0.80 5400
f  100  300 1100 2100 0.00 0.25 3600
v   60  280 1100 2100 0.50 0.12 3400
th  90  300 1300 2500 0.00 0.18 4600
t   25  300 1800 2700 0.00 0.90 4300
k   30  300 1900 2300 0.00 0.80 2200
-   55  300 1600 2500 0.00 0.00 4000
r   70  330 1100 1500 0.80 0.00 4000
w   70  300  650 2200 0.70 0.00 4000
n   90  270 1350 2300 0.55 0.00 4000
i  150  290 2250 3000 1.00 0.00 4000
I   90  400 1950 2550 1.00 0.00 4000
e  110  540 1820 2480 1.00 0.00 4000
a  130  720 1180 2450 1.00 0.00 4000
A   90  640 1200 2400 1.00 0.00 4000
o  110  560  860 2400 1.00 0.00 4000
u  130  310  900 2250 1.00 0.00 4000
@   60  500 1450 2450 0.80 0.00 4000
"""
SOUNDS = {name: [float(value) for value in values] for name, *values in map(str.split, TABLE.strip().splitlines())}
SPELT = ("z I r o u", "w A n", "- t u u", "th r i", "f o r", "f a I v", "s I - k s", "s e v @ n", "e I - t", "n a I n")


class Speaker(NamedTuple):
    """Pitch in Hz, scale of the formants, rate (2: twice as fast), share of breath in the voice, strength of noise."""

    name: str
    pitch: float
    scale: float
    rate: float
    breath: float
    hiss: float = 1.0


SPEAKERS = (
    Speaker("bass", 95, 0.92, 0.95, 0.02),
    Speaker("baritone", 120, 0.98, 1.1, 0.04),
    Speaker("tenor", 145, 1.0, 0.9, 0.06),
    Speaker("alto", 185, 1.1, 1.05, 0.05),
    Speaker("soprano", 225, 1.17, 1.0, 0.08),
    Speaker("child", 270, 1.28, 0.85, 0.04),
)
READER = Speaker("reader", 145, 1.0, 0.9, 0.06, 2.0)


def digits() -> Path:
    """A folder with train.jsonl, validation.jsonl and test.jsonl, rows {"audio", "text", "label", "speaker"}, and their
    flac files of one spoken digit each. Each recording is drawn anew: none is in two splits."""
    return _made("digits", 1)


def strings() -> Path:
    """As `digits`, with one to four digits in each recording, and without "label"."""
    return _made("strings", MOST)


def voice() -> Path:
    """As `digits`, of one voice with clear consonants, whose recordings differ a quarter as much: a new model learns to
    speak it in minutes."""
    return _made("reader", 1, OF_A_VOICE, [READER], 0.25)


def _made(
    name: str,
    most: int,
    splits: Mapping[str, int] = SPLITS,
    speakers: Sequence[Speaker] = SPEAKERS,
    spread: float = 1.0,
) -> Path:
    folder = cache() / "audio" / f"{name}-1"
    make_once(folder, lambda stage: _write(stage / name, most, splits, speakers, spread))
    return folder / name


def _write(folder: Path, most: int, splits: Mapping[str, int], voices: Sequence[Speaker], spread: float) -> None:
    import soundfile

    for number, (split, count) in enumerate(splits.items()):
        draw = np.random.default_rng([number, most])
        (folder / split).mkdir(parents=True)
        lengths = draw.integers(1, most + 1, count)
        spoken = [draw.integers(0, 10, length).tolist() for length in lengths]
        speakers = [voices[place % len(voices)] for place in range(count)]
        lines = []
        parts = [slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE)]
        waves = chain.from_iterable(synthesise(spoken[part], speakers[part], draw, spread) for part in parts)
        for place, wave in enumerate(waves):
            name = f"{split}/{place:05}.flac"
            soundfile.write(folder / name, wave, RATE)
            row = {"audio": name, "text": " ".join(WORDS[digit] for digit in spoken[place])}
            label = {"label": WORDS[spoken[place][0]]} if most == 1 else {}
            lines.append(json.dumps({**row, **label, "speaker": speakers[place].name}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def synthesise(
    spoken: Sequence[Sequence[int]], speakers: Sequence[Speaker], draw: np.random.Generator, spread: float = 1.0
) -> list[np.ndarray]:
    """A (T,) float32 wave for each sequence of digits, each by its speaker; `draw` varies pitch, rate, formants, noise
    and loudness a little, pitch, rate and formants by a share of `spread` of the usual."""
    tracks = [_track(digits, speaker, draw, spread) for digits, speaker in zip(spoken, speakers, strict=True)]
    frames = max(map(len, tracks))
    track = np.stack([np.pad(one, ((0, frames - len(one)), (0, 0)), "edge") for one in tracks])  # (N, F, 7)
    pitch, place = track[..., 6].repeat(FRAME, axis=1), track[..., [0, 1, 2, 5]]
    phase = np.cumsum(pitch / RATE, axis=1)
    pulse = np.diff(np.floor(phase), axis=1, prepend=0) - pitch / RATE  # a pulse train without its mean
    voiced, noisy = (track[..., column].repeat(FRAME, axis=1) for column in (3, 4))
    noise = draw.normal(0, 1, pulse.shape)
    breath = np.array([[speaker.breath] for speaker in speakers])
    voice = voiced * (pulse + breath * noise)
    width = np.array([80.0, 110.0, 170.0, 700.0])  # bandwidths in Hz
    radius = np.exp(-np.pi * width / RATE)
    first, second = 2 * radius * np.cos(2 * np.pi * place / RATE), -(radius**2)  # (N, F, 4) and (4,)
    gain = (1 - radius) * np.array([1.0, -0.75, 0.5, 0.55])  # neighbours of opposite sign leave no hole between them
    source = np.stack([voice, voice, voice, noisy * noise * 0.12], axis=-1, dtype=np.float32)
    source = np.ascontiguousarray(source.swapaxes(0, 1)) * gain.astype(np.float32)  # (T, N, 4)
    first, second = np.ascontiguousarray(first.swapaxes(0, 1), np.float32), second.astype(np.float32)
    past = before = np.zeros(source.shape[1:], np.float32)
    for sample in range(len(source)):
        past, before = source[sample] + first[sample // FRAME] * past + second * before, past
        source[sample] = past
    waves = source.sum(axis=2).T
    waves = np.diff(waves, axis=1, prepend=0)  # the lips radiate the change of pressure
    shown = [wave[: len(one) * FRAME] for wave, one in zip(waves, tracks, strict=True)]
    loudness = draw.uniform(0.3, 0.8, len(shown))
    return [(wave * (loud / np.abs(wave).max())).astype(np.float32) for wave, loud in zip(shown, loudness, strict=True)]


def _track(digits: Sequence[int], speaker: Speaker, draw: np.random.Generator, spread: float) -> np.ndarray:
    """(F, 7) of one recording: three formants, voice, noise, centre of the noise, pitch."""

    def near(share: float, size: int | None = None) -> Any:
        return draw.uniform(1 - share * spread, 1 + share * spread, size)

    sounds = ["-", *(sound for digit in digits for sound in [*SPELT[digit].split(), "-"])]
    rows, rate = np.array([SOUNDS[sound] for sound in sounds]), speaker.rate * near(0.12)
    lengths = np.maximum(2, rows[:, 0] * near(0.15, len(rows)) / rate / 5).astype(int)
    values = rows[:, 1:].repeat(lengths, axis=0)
    values[:, 4] *= speaker.hiss
    values[:, :3] *= speaker.scale * near(0.03)
    values[:, 5] = np.minimum(values[:, 5] * speaker.scale**0.5 * near(0.04), 0.45 * RATE)
    window = np.hanning(SMOOTH + 2)[1:-1] / np.hanning(SMOOTH + 2).sum()
    padded = np.pad(values, ((SMOOTH // 2, SMOOTH // 2), (0, 0)), "edge")
    values = np.stack([np.convolve(column, window, "valid") for column in padded.T], axis=1)
    fall = np.linspace(1.08, 0.86, len(values)) * near(0.06)  # pitch falls towards the end
    jitter = 1 + 0.02 * np.sin(np.linspace(0, draw.uniform(3, 9), len(values)) + draw.uniform(0, 6))
    return np.column_stack([values, speaker.pitch * fall * jitter])
