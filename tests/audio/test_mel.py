"""Spectrograms equal transformers', and come back as sound."""

import numpy as np
import pytest
from transformers import SpeechT5FeatureExtractor

from hftrain.audio.mel import LogMel
from hftrain.audio.spoken import spoken

pytestmark = pytest.mark.unit


def tone(pitch: float, seconds: float, rate: int) -> np.ndarray:
    """A voice-like wave: a pitch with its harmonics."""
    time = np.arange(int(seconds * rate)) / rate
    return sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 15)).astype(np.float32) * 0.2


def test_a_spectrogram_is_that_of_transformers():
    wave = np.random.default_rng(0).normal(0, 0.1, 9000).astype(np.float32)
    ours = LogMel()(wave)
    theirs = SpeechT5FeatureExtractor()(audio_target=wave, sampling_rate=16_000)["input_values"][0]
    assert ours.shape == theirs.shape == (36, 80)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    higher = SpeechT5FeatureExtractor(mel_floor=1e-2)(audio_target=wave / 10, sampling_rate=16_000)["input_values"][0]
    np.testing.assert_allclose(LogMel(floor=1e-2)(wave / 10), higher, atol=1e-5)
    assert (higher == -2).any()


def test_settings_of_an_extractor_are_read():
    settings = SpeechT5FeatureExtractor(sampling_rate=8000, num_mel_bins=40, fmax=3800).to_dict()
    assert LogMel.of(settings) == LogMel(8000, 512, 128, 40, 80, 3800)
    assert LogMel.of(settings | {"mel_floor": 1e-4}).floor == 1e-4


@pytest.mark.parametrize("rate", [8000, 22_050])
def test_the_pitch_is_found_and_survives_griffin_lim(rate):
    mel, wave = LogMel.at(rate), tone(131.0, 0.5, rate)
    frames = mel(wave)
    inside = slice(4, len(frames) - 4)
    assert np.median(mel.pitch(wave, len(frames))[inside]) == pytest.approx(131, rel=0.02)
    again = mel.wave(frames)
    assert np.median(mel.pitch(again, len(frames))[inside]) == pytest.approx(131, rel=0.03)
    heard = [values[inside].clip(-2) for values in (mel(again), frames)]
    assert np.abs(heard[0] - heard[1]).mean() < 0.1  # log10 of magnitudes: 2 dB
    assert (again == mel.wave(frames)).all()


def test_noise_and_silence_have_no_pitch():
    mel = LogMel()
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    assert (mel.pitch(noise, 30) == 0).mean() > 0.9
    assert (mel.pitch(np.zeros(8000), 30) == 0).all()


def test_a_recording_shorter_than_a_window_has_frames():
    frames = LogMel()(np.ones(100, np.float32))
    assert frames.shape == (1, 80) and LogMel().wave(frames).shape == (256,)


@pytest.mark.parametrize(
    ("text", "normaliser", "expected"),
    [
        ("Dr. Smith  paid $3.50 — no", "english", "doctor smith paid three point five zero dollars - no"),
        ("In 1,204 “cases”", "english", 'in one thousand two hundred and four "cases"'),
        ("Ünter 5 Linden", "lower", "ünter 5 linden"),
        ("As IT is ", "none", "As IT is "),
    ],
)
def test_text_becomes_spoken_text(text, normaliser, expected):
    assert spoken(text, normaliser) == expected
