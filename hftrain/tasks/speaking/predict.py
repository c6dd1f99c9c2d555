"""Texts as speech."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hftrain.models.saved import Saved, load_weights


def is_voice(kind: str) -> bool:
    """Whether a class of transformers speaks text."""
    from hftrain.tasks.speaking.codec import CLASSES

    return "ForTextToSpeech" in kind or kind in ("FastSpeech2ConformerModel", *CLASSES.values())


def speak(saved: Saved, texts: Sequence[str], vocoder: str | None = None, speaker: str | None = None) -> list[Any]:
    """For each text {"wave": (T,) float32 samples, "rate": samples per second, "ended": whether it came to its end
    before the model's max_seconds}.

    Args:
        vocoder: HiFi-GAN in a folder or on the Hub; None: Griffin-Lim.
        speaker: the name of a speaker of the training; None: the first.

    Raises:
        ValueError: a text that is empty or has characters that the model does not know, an unknown speaker, or a
            vocoder for a model that has a codec.
    """
    import torch

    from hftrain.tasks.speaking.codec import AUTO, is_coded
    from hftrain.tasks.speaking.losses import is_aligned
    from hftrain.tasks.speaking.scoring import Utterance, utter, utter_codes
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
    coded = is_coded(saved.config)
    if coded and vocoder is not None:
        raise ValueError(f"--vocoder has no use here: the model in {saved.folder} has its own codec")
    model, device = load_weights(saved, AUTO.get(saved.config.model_type, "AutoModelForTextToSpectrogram"))
    make_wave = load_vocoder(vocoder, voice.mel, device)
    if is_aligned(saved.config):
        who = torch.tensor(voice.speakers.index(speaker), device=device)
    elif not coded:
        from hftrain.tasks.speaking.model import steady_prenet

        steady_prenet(model)
        who = torch.from_numpy(voice.embedding(speaker, saved.config.speaker_embedding_dim)).to(device)

    def utter_text(text: str) -> Utterance:
        ids = torch.from_numpy(voice.tokens(text, speaker)).to(device)
        return utter_codes(model, ids, voice) if coded else utter(model, ids, who, voice.most_frames)

    spoken = []
    for text in texts:
        utterance = utter_text(text)
        if not torch.from_numpy(utterance.mel).isfinite().all():
            raise ValueError(f"the model in {saved.folder} gives NaN: its training has diverged (hftrain verify)")
        if not utterance.ended:
            print(f"{text!r:.60} did not end within {voice.max_seconds:g} s and was cut off", file=sys.stderr)
        wave = make_wave(utterance.mel) if utterance.wave is None else utterance.wave
        spoken.append({"wave": wave, "rate": voice.mel.rate, "ended": utterance.ended})
    return spoken


def write_waves(folder: Path, texts: Sequence[str], spoken: Sequence[Any]) -> Iterator[str]:
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
