"""From a spectrogram to a wave, and who listens to it: the vocoder, Whisper, and a model that knows voices.

Shapes: F frames, M mel bands, T samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers

from hftrain.audio.mel import LogMel
from hftrain.models.load import cannot_load
from hftrain.tasks.speaking.voice import vocoder_config

LISTENED = 16_000  # samples per second of Whisper and of the models of voices

Vocoder = Callable[[np.ndarray], np.ndarray]


def load_vocoder(name: str | None, mel: LogMel, device: torch.device | str = "cpu") -> Vocoder:
    """(F, M) -> (T,) float32: a HiFi-GAN, or Griffin-Lim without a name.

    Raises:
        ValueError: not a HiFi-GAN, or one for other spectrograms.
    """
    if name is None:
        return mel.wave
    config = vocoder_config(name)
    hop = int(np.prod(config.upsample_rates))
    theirs, ours = (config.sampling_rate, config.model_in_dim, hop), (mel.rate, mel.bands, mel.hop)
    if theirs != ours:
        names = ("samples per second", "mel bands", "samples per frame")
        shown = ["{} {}".format(*pair) for values in (theirs, ours) for pair in zip(values, names, strict=True)]
        raise ValueError(f"vocoder {name!r} is for {', '.join(shown[:3])}, but the model has {', '.join(shown[3:])}")
    (kind,) = config.architectures or ["SpeechT5HifiGan"]
    model = getattr(transformers, kind).from_pretrained(name, trust_remote_code=False).eval().to(device)

    @torch.no_grad()
    def wave(frames: np.ndarray) -> np.ndarray:
        sound: np.ndarray = model(torch.from_numpy(frames).to(device)).float().cpu().numpy()
        return sound.clip(-1, 1)

    return wave


def load_listener(name: str, device: torch.device | str = "cpu") -> Callable[[Sequence[np.ndarray]], list[str]]:
    """Waves of 16,000 samples per second -> what Whisper writes. Raises: ValueError, it cannot be loaded."""
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    try:
        processor: Any = WhisperProcessor.from_pretrained(name, trust_remote_code=False)
        model: Any = WhisperForConditionalGeneration.from_pretrained(name, trust_remote_code=False).eval().to(device)
    except (OSError, ValueError) as error:
        raise ValueError(cannot_load("listener", name, error)) from error
    window = model.config.max_source_positions * 2  # frames of 10 ms; a model of short recordings has a short window
    longest = window * LISTENED // 100

    @torch.no_grad()
    def listen(waves: Sequence[np.ndarray]) -> list[str]:
        texts = []
        for wave in waves:
            extract = processor.feature_extractor
            inputs = extract(
                wave[:longest], sampling_rate=LISTENED, return_tensors="pt", padding="max_length", max_length=longest
            )
            ids = model.generate(inputs.input_features.to(device), max_length=model.config.max_target_positions // 2)
            texts += processor.batch_decode(ids, skip_special_tokens=True)
        return texts

    return listen


def load_speaker_encoder(name: str, device: torch.device | str = "cpu") -> Callable[[np.ndarray], np.ndarray]:
    """A wave of 16,000 samples per second, with silence behind it up to half a second, without which an encoder of
    x-vectors has no frame to average -> an embedding of length 1. Raises: ValueError, it cannot be loaded."""
    from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

    try:
        extract: Any = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
        model: Any = AutoModelForAudioXVector.from_pretrained(name, trust_remote_code=False).eval().to(device)
    except (OSError, ValueError) as error:
        raise ValueError(cannot_load("speaker_encoder", name, error)) from error

    @torch.no_grad()
    def embed(wave: np.ndarray) -> np.ndarray:
        whole = np.pad(wave, (0, max(0, LISTENED // 2 - len(wave))))
        inputs = extract(whole, sampling_rate=LISTENED, return_tensors="pt").to(device)
        vector: np.ndarray = model(**inputs).embeddings[0].float().cpu().numpy()
        return vector / np.linalg.norm(vector)

    return embed
