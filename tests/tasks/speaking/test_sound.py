"""Vocoders, a model that knows voices, and the words that are heard."""

import numpy as np
import pytest
import torch
from transformers import (
    FastSpeech2ConformerHifiGan,
    FastSpeech2ConformerHifiGanConfig,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    WavLMConfig,
)

from hftrain.audio.mel import LogMel
from hftrain.tasks.speaking.scoring import plain, word_errors
from hftrain.tasks.speaking.sound import load_speaker_encoder, load_vocoder
from tests.tasks.speaking.models import MEL, save_encoder

pytestmark = pytest.mark.unit

SIZE = {
    "model_in_dim": MEL.bands,
    "sampling_rate": MEL.rate,
    "upsample_initial_channel": 8,
    "upsample_rates": [8, 16],
    "upsample_kernel_sizes": [16, 32],
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
}


@pytest.mark.parametrize(
    ("model", "config"),
    [(SpeechT5HifiGan, SpeechT5HifiGanConfig), (FastSpeech2ConformerHifiGan, FastSpeech2ConformerHifiGanConfig)],
)
def test_a_hifigan_makes_the_wave(model, config, tmp_path):
    saved = model(config(**SIZE)).eval()
    saved.save_pretrained(tmp_path)
    mel = np.random.default_rng(0).normal(-2, 1, (9, MEL.bands)).astype(np.float32)
    wave = load_vocoder(str(tmp_path), MEL)(mel)
    assert wave.shape == (9 * MEL.hop,)
    with torch.no_grad():
        np.testing.assert_allclose(wave, saved(torch.from_numpy(mel)).numpy(), atol=1e-6)
    with pytest.raises(
        ValueError, match="is for 8000 samples per second, 20 mel bands, 128 samples per frame, but the"
    ):
        load_vocoder(str(tmp_path), LogMel.at(16_000))


def test_what_is_no_vocoder_is_refused(tmp_path):
    WavLMConfig(hidden_size=16).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a wavlm, not a HiFi-GAN"):
        load_vocoder(str(tmp_path), MEL)


def test_a_speaker_encoder_gives_vectors_of_length_1(tmp_path):
    save_encoder(tmp_path)
    embed = load_speaker_encoder(str(tmp_path))
    draw = np.random.default_rng(0)
    one, other = (embed(draw.normal(0, 0.1, 4000).astype(np.float32)) for _ in range(2))
    assert np.linalg.norm(one) == pytest.approx(1) and one.shape == (8,) and not np.allclose(one, other)


def test_words_are_compared_without_case_punctuation_and_digits():
    assert plain(" Seven, TWO! 4") == "seven two four"
    assert word_errors(["seven two", "nine"], ["7 two.", "five"]) == {"wer": pytest.approx(1 / 3), "exact_match": 0.5}
