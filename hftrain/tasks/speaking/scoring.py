"""Spoken texts, and how near they are to recordings of the same texts.

Shapes: N tokens, F frames, M mel bands, T samples.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from hftrain.audio import read
from hftrain.audio.spoken import spoken
from hftrain.data.examples import Examples
from hftrain.losses import Batch, Collate
from hftrain.metrics.cepstra import distance
from hftrain.report.described import evenly
from hftrain.tasks.speaking.codec import codec_of, decode, hop, is_coded, speak_codes, text_of
from hftrain.tasks.speaking.config import SpeakConfig
from hftrain.tasks.speaking.losses import SpectrogramLoss, is_aligned, loss_for, speaking_part
from hftrain.tasks.speaking.sound import LISTENED, Vocoder, load_listener, load_speaker_encoder, load_vocoder
from hftrain.tasks.speaking.voice import Voice
from hftrain.train.evaluation import OneProcess, mean_loss, predict

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Utterance:
    """A text that the model has spoken: (F, M) frames, whether it came to its end before the longest length, and (T,)
    its wave if a codec made it."""

    mel: np.ndarray
    ended: bool
    wave: np.ndarray | None = None


@dataclass(frozen=True)
class Spoken:
    """Some rows of a split (their places), spoken; in that order, on every process."""

    places: Sequence[int]
    utterances: Sequence[Utterance]
    waves: Sequence[np.ndarray]
    distances: Sequence[float]  # in dB
    heard: Sequence[str] = ()
    similarities: Sequence[float] = ()


@torch.no_grad()
def utter(model: nn.Module, ids: torch.Tensor, speaker: torch.Tensor, most_frames: int) -> Utterance:
    """Speaks one text (N,). `speaker`: its number, or of SpeechT5 its embedding (E,)."""
    inner = speaking_part(model)
    training = inner.training
    inner.eval()
    try:
        if is_aligned(inner.config):
            return _with_durations(inner, ids, speaker, most_frames)
        ratio = most_frames / len(ids)
        mel = inner.generate(
            ids[None], attention_mask=torch.ones_like(ids)[None], speaker_embeddings=speaker[None], maxlenratio=ratio
        )
        factor = inner.config.reduction_factor
        return Utterance(mel.float().cpu().numpy(), len(mel) < int(most_frames / factor) * factor)
    finally:
        inner.train(training)


def utter_codes(model: nn.Module, ids: torch.Tensor, voice: Voice) -> Utterance:
    """`utter` of a model that speaks in codes."""
    inner = speaking_part(model)
    codec, training = codec_of(inner, voice.processor), inner.training
    inner.eval()
    try:
        codes, ended = speak_codes(inner, ids, max(1, int(voice.max_seconds * voice.mel.rate / hop(codec))))
    finally:
        inner.train(training)
    wave = decode(codec, codes)
    return Utterance(voice.mel(wave), ended, wave)


def _with_durations(inner: Any, ids: torch.Tensor, speaker: torch.Tensor, most_frames: int) -> Utterance:
    ended = True

    def limit(module: nn.Module, inputs: Any, durations: torch.Tensor) -> torch.Tensor:
        nonlocal ended
        short = durations.clamp(0, most_frames)
        within = short.cumsum(dim=1) <= most_frames
        ended = bool(within.all() and (short == durations).all())
        return short * within

    hook = inner.duration_predictor.register_forward_hook(limit)
    try:
        named = {"speaker_ids": speaker[None]} if inner.multispeaker_model else {}
        mel = inner(ids[None], **named).spectrogram[0]
    finally:
        hook.remove()
    return Utterance(mel.float().cpu().numpy(), ended)


def loss_of(
    accelerator: Accelerator, model: nn.Module, examples: Examples, batch_size: int, *, collate: Collate
) -> float:
    """The mean loss, with the recordings' own frames as inputs."""
    measure = loss_for(model)
    if isinstance(measure, SpectrogramLoss):
        tokens, frames = np.array([len(ids) for ids in examples.items.tokens]), examples.lengths[:, 0]  # type: ignore[attr-defined]
        factor = measure.config.reduction_factor
        frames = frames // factor * factor
        measure.see(int(frames.sum()), int(tokens.sum() if measure.aligned else (tokens * (frames // factor)).sum()))
    return mean_loss(accelerator, model, examples, batch_size, collate=collate, loss=measure.loss())


def speak(
    accelerator: Accelerator | OneProcess,
    model: nn.Module,
    examples: Examples,
    places: Sequence[int],
    voice: Voice,
    vocoder: Vocoder,
    *,
    collate: Collate,
) -> Spoken:
    """The texts of the examples at `places`, one by one: an utterance does not depend on the others."""
    rows = examples.rows
    assert rows is not None
    chosen, model_config = [examples[place] for place in places], speaking_part(model).config

    def generate(batch: Batch) -> list[Utterance]:
        if is_coded(model_config):
            return [utter_codes(model, text_of(model_config, batch), voice)]
        speaker = batch["speaker_ids"] if "speaker_ids" in batch else batch["speaker_embeddings"]
        return [utter(model, batch["input_ids"][0], speaker[0], voice.most_frames)]

    utterances = predict(accelerator, chosen, 1, collate=collate, generate=generate)
    waves = [vocoder(one.mel) if one.wave is None else one.wave for one in utterances]
    recordings = [voice.mel(recording(rows[place], voice)) for place in places]
    distances = [distance(own, one.mel) for own, one in zip(recordings, utterances, strict=True)]
    return Spoken(list(places), utterances, waves, distances)


def recording(row: Mapping[str, Any], voice: Voice) -> np.ndarray:
    """(T,) the wave of a row at the rate of the voice."""
    return read(row["audio"], voice.mel.rate, row["start"], row["end"])


class Stage:
    """Where the model speaks: the vocoder, the listener and the encoder of voices, all loaded before the training, and
    the folder of listening samples."""

    def __init__(
        self,
        config: SpeakConfig,
        accelerator: Accelerator,
        voice: Voice,
        examples: Mapping[str, Examples],
        collate: Collate,
    ):
        self.config, self.accelerator, self.voice = config, accelerator, voice
        self.examples, self.collate = examples, collate
        device = accelerator.device
        self.vocoder = load_vocoder(config.vocoder, voice.mel, device)
        self.listen = load_listener(config.listener, device) if config.listener else None
        self.embed = load_speaker_encoder(config.speaker_encoder, device) if config.speaker_encoder else None
        self.step = 0

    def note_step(self, step: int, model: nn.Module) -> None:
        """For `fit(after_step=...)`: the samples of an evaluation are named by its step."""
        self.step = step

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Loss and distance of the validation rows; `num_samples` of them are spoken and written as wav files."""
        examples, config = self.examples["validation"], self.config
        loss = loss_of(self.accelerator, model, examples, config.eval_batch_size, collate=self.collate)
        result = self._speak(model, "validation", config.num_samples)
        if self.accelerator.is_main_process:
            folder = Path(config.output_dir) / "samples" / f"step-{self.step}"
            write_waves(folder, result.waves, self.voice.mel.rate)
        return {"loss": loss, "mcd": float(np.mean(result.distances))}

    def test(self, model: nn.Module, rows: Rows) -> tuple[dict[str, float], Spoken]:
        """The scores of the test rows, of which `num_scored` are spoken."""
        examples, config = self.examples["test"], self.config
        scores = {"loss": loss_of(self.accelerator, model, examples, config.eval_batch_size, collate=self.collate)}
        result = self._speak(model, "test", config.num_scored)
        scores["mcd"] = float(np.mean(result.distances))
        if unended := sum(not one.ended for one in result.utterances):
            logger.warning(
                "%d of %d utterances did not end within max_seconds=%g: train for longer, or on shorter texts",
                *(unended, len(result.utterances), config.max_seconds),
            )
        loud = [heard_at(wave, self.voice.mel.rate) for wave in result.waves]
        heard, similarities = [], []
        if self.listen is not None:
            heard = self.listen(loud)
            wanted = [rows[place]["text"] for place in result.places]
            scores |= word_errors(wanted, heard)
        if self.embed is not None:
            for place, wave in zip(result.places, loud, strict=True):
                row = rows[place]
                own = read(row["audio"], LISTENED, row["start"], row["end"])
                similarities.append(float(self.embed(own) @ self.embed(wave)))
            scores["speaker_similarity"] = float(np.mean(similarities))
        return scores, Spoken(result.places, result.utterances, result.waves, result.distances, heard, similarities)

    def _speak(self, model: nn.Module, split: str, count: int) -> Spoken:
        examples = self.examples[split]
        places = evenly(len(examples), count)
        return speak(self.accelerator, model, examples, places, self.voice, self.vocoder, collate=self.collate)


def heard_at(wave: np.ndarray, rate: int) -> np.ndarray:
    """The wave as Whisper and models of voices read it."""
    import soxr

    resampled: np.ndarray = soxr.resample(wave, rate, LISTENED).astype(np.float32)
    return resampled


def plain(text: str) -> str:
    """A text as words to compare: as `spoken` in English, without punctuation."""
    letters = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in spoken(text, "english"))
    return " ".join(letters.split())


def word_errors(wanted: Sequence[str], heard: Sequence[str]) -> dict[str, float]:
    """The word error rate (jiwer), and the share of texts that are exactly right, both without case and punctuation."""
    import jiwer

    references, hypotheses = [[plain(text) for text in texts] for texts in (wanted, heard)]
    exact = sum(map(str.__eq__, references, hypotheses)) / len(references)
    return {"wer": float(jiwer.wer(references, hypotheses)), "exact_match": exact}


def write_waves(folder: Path, waves: Sequence[np.ndarray], rate: int) -> list[Path]:
    """`1.wav`, `2.wav`, ... of 16 bits."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number}.wav" for number in range(1, len(waves) + 1)]
    for file, wave in zip(files, waves, strict=True):
        soundfile.write(file, wave, rate, subtype="PCM_16")
    return files
