"""Texts as speech."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hftrain.models.saved import Saved, load_weights


def is_voice(kind: str) -> bool:
    """Whether a class of transformers makes spectrograms of text."""
    return "ForTextToSpeech" in kind or kind == "FastSpeech2ConformerModel"


def speak(saved: Saved, texts: Sequence[str], vocoder: str | None = None, speaker: str | None = None) -> list[Any]:
    """For each text {"wave": (T,) float32 samples, "rate": samples per second, "ended": whether it came to its end
    before the model's max_seconds}.

    Args:
        vocoder: HiFi-GAN in a folder or on the Hub; None: Griffin-Lim.
        speaker: the name of a speaker of the training; None: the first.

    Raises:
        ValueError: a text that is empty or has characters that the model does not know, or an unknown speaker.
    """
    import torch

    from hftrain.tasks.speaking.losses import is_aligned
    from hftrain.tasks.speaking.scoring import utter
    from hftrain.tasks.speaking.sound import load_vocoder
    from hftrain.tasks.speaking.voice import saved_voice

    voice = saved_voice(saved)
    if speaker is not None and speaker not in voice.speakers:
        raise ValueError(f"there is no speaker {speaker!r}; the model speaks as {', '.join(voice.speakers)}")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise ValueError(f"text {number} is empty: there is nothing to speak")
        if unknown := voice.unknown(text):
            raise ValueError(f"the model does not know the character {unknown!r} of {text!r:.60}: write it as words")
    speaker = voice.speakers[0] if speaker is None else speaker
    model, device = load_weights(saved, "AutoModelForTextToSpectrogram")
    make_wave = load_vocoder(vocoder, voice.mel, device)
    if is_aligned(saved.config):
        who = torch.tensor(voice.speakers.index(speaker), device=device)
    else:
        from hftrain.tasks.speaking.model import steady_prenet

        steady_prenet(model)
        who = torch.from_numpy(voice.embedding(speaker, saved.config.speaker_embedding_dim)).to(device)
    spoken = []
    for text in texts:
        utterance = utter(model, torch.from_numpy(voice.tokens(text)).to(device), who, voice.most_frames)
        if not torch.from_numpy(utterance.mel).isfinite().all():
            raise ValueError(f"the model in {saved.folder} gives NaN: its training has diverged (hftrain verify)")
        if not utterance.ended:
            print(f"{text!r:.60} did not end within {voice.max_seconds:g} s and was cut off", file=sys.stderr)
        spoken.append({"wave": make_wave(utterance.mel), "rate": voice.mel.rate, "ended": utterance.ended})
    return spoken


def write(folder: Path, texts: Sequence[str], spoken: Sequence[Any]) -> Iterator[str]:
    """Writes 1.wav, 2.wav, ... to `folder`; yields a line for each: file TAB seconds TAB text.

    Raises:
        ValueError: `folder` is a file.
    """
    from hftrain.tasks.speaking.scoring import write_waves

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is a file: speech is written to a folder")
    files = write_waves(folder, [one["wave"] for one in spoken], spoken[0]["rate"])
    for file, one, text in zip(files, spoken, texts, strict=True):
        yield f"{file}\t{len(one['wave']) / one['rate']:.2f}\t{' '.join(text.split())}"
