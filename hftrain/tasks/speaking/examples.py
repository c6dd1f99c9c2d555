"""Recordings as spectrograms with the tokens of their texts, and their batches.

Spectrograms are made once, and are then read from the cache. For FastSpeech2 each token has its duration, from an
alignment that is learnt from the training rows, and the pitch and the energy of its frames.

Shapes: B examples of a batch, N tokens, F frames, M mel bands, E size of a speaker embedding.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from hftrain.audio import alignment, read
from hftrain.audio.mel import LogMel
from hftrain.data.examples import Examples
from hftrain.losses import IGNORE, Batch
from hftrain.metrics.cepstra import cepstra
from hftrain.tasks.speaking.codec import Coded, books, codec_of, coded_collator, encoded, hop, is_coded, too_long
from hftrain.tasks.speaking.config import SpeakConfig
from hftrain.tasks.speaking.frames import Frames, stored
from hftrain.tasks.speaking.losses import is_aligned, speaking_part
from hftrain.tasks.speaking.rows import crowded, speakable
from hftrain.tasks.speaking.voice import Voice
from hftrain.text.examples import attention_mask, pad

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)


class Spectrograms(Frames):
    """(F, M) log-mel of each row, and `pitch(i)` (F,) in Hz."""

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        return super().__getitem__(index)[:, :-1]

    def pitch(self, index: int) -> np.ndarray:
        return super().__getitem__(index)[:, -1]


def spectrograms(rows: "Rows", mel: LogMel) -> Spectrograms:
    """The spectrograms of the recordings of `rows`, from the cache if they were made before."""

    def make(row: Mapping[str, Any]) -> np.ndarray:
        wave = read(row["audio"], mel.rate, row["start"], row["end"])
        bands = mel(wave)
        return np.column_stack([bands, mel.pitch(wave, len(bands))]).astype(np.float32)

    code = Path(LogMel.pitch.__code__.co_filename).read_text(encoding="utf-8")
    return Spectrograms(stored("spectrograms", code + repr(mel), rows, make))


class Utterances(Sequence[dict[str, Any]]):
    """The examples of a split: "input_ids" (N,), "mel" (F, M), "speaker" (its number), and "durations" (N,), "pitch"
    (N,), "energy" (N,) of a model that needs them."""

    def __init__(
        self, mels: Spectrograms, tokens: Sequence[np.ndarray], speakers: Sequence[int], prosody: Sequence[Any] = ()
    ):
        self.mels, self.tokens, self.speakers, self.prosody = mels, tokens, speakers, prosody

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        more = dict(zip(("durations", "pitch", "energy"), self.prosody[index], strict=True)) if self.prosody else {}
        return {
            "input_ids": self.tokens[index], "mel": self.mels[index], "speaker": self.speakers[index], **more
        }  # fmt: skip


def make_examples(
    rows: "Mapping[str, Rows]", voice: Voice, config: SpeakConfig, model: nn.Module
) -> "tuple[dict[str, Rows], dict[str, Examples]]":
    """The rows that can be spoken, and their examples, for a model with what it learns of them."""
    if is_coded(speaking_part(model).config):
        return coded_examples(rows, voice, config, speaking_part(model))
    kept, examples = {}, {}
    learnt, aligned = None, is_aligned(speaking_part(model).config)
    places = {name: number for number, name in enumerate(voice.speakers)}
    for split in ("train", *(name for name in rows if name != "train")):
        part, tokens = speakable(rows[split], voice, config, partial(crowded, voice))
        mels, prosody = spectrograms(part, voice.mel), []
        if aligned:
            features = [level(mels[number]) for number in range(len(mels))]
            if learnt is None:
                learnt = alignment.learn(features, tokens, len(voice.tokenizer))
            durations = alignment.align(features, tokens, learnt)
            raw = [prosody_of(mels[i], mels.pitch(i), durations[i]) for i in range(len(mels))]
            if split == "train":
                normal = Normal(raw)
            prosody = [(owned, *normal(pair)) for owned, pair in zip(durations, raw, strict=True)]
        items = Utterances(mels, tokens, [places[name] for name in part["speaker"]], prosody)
        digest = hashlib.sha256(json.dumps([part["content"][:], part["text"][:], repr(voice.mel)]).encode())
        digest.update(b"".join(owned.tobytes() for owned, *_ in prosody))
        lengths = np.diff(mels.ends)
        kept[split], examples[split] = part, Examples(items, lengths, rows=part, fingerprint=digest.hexdigest())
    return {split: kept[split] for split in rows}, {split: examples[split] for split in rows}


def coded_examples(
    rows: "Mapping[str, Rows]", voice: Voice, config: SpeakConfig, model: Any
) -> "tuple[dict[str, Rows], dict[str, Examples]]":
    """`make_examples` for a model that speaks in codes."""
    codec, number = codec_of(model, voice.processor), books(model.config)
    size, kept, examples = hop(codec), {}, {}
    for split, part in rows.items():
        kept[split], tokens = speakable(part, voice, config, partial(too_long, model.config, voice.mel.rate / size))
        items = Coded(encoded(kept[split], codec, number, voice.mel.rate), tokens)
        digest = hashlib.sha256(json.dumps([kept[split]["content"][:], number]).encode())
        digest.update(b"".join(ids.tobytes() for ids in tokens))
        lengths = np.diff(items.codes.ends)
        examples[split] = Examples(items, lengths, rows=kept[split], fingerprint=digest.hexdigest())
    return kept, examples


def level(mel: np.ndarray) -> np.ndarray:
    """Cepstra of a recording, whose mean loudness is 0: what the alignment compares."""
    features = cepstra(mel)
    features[:, 0] -= features[:, 0].mean()
    return features


def prosody_of(mel: np.ndarray, pitch: np.ndarray, durations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each token (N,) the mean natural logarithm of the pitch over its voiced frames (0 without one), and the mean
    loudness."""
    owners = np.arange(len(durations)).repeat(durations)
    voiced = pitch > 0
    logarithms = np.bincount(owners[voiced], np.log(pitch[voiced]), len(durations))
    mean = logarithms / np.maximum(np.bincount(owners[voiced], minlength=len(durations)), 1)
    return mean, np.bincount(owners, mel.mean(axis=1), len(durations)) / durations


class Normal:
    """Pitch and energy with mean 0 and deviation 1 over the tokens of the training rows; the pitch of a token without a
    voiced frame is 0, the mean."""

    def __init__(self, prosody: Sequence[tuple[np.ndarray, np.ndarray]]):
        pitch, energy = (np.concatenate(values) for values in zip(*prosody, strict=True))
        pitch = pitch[pitch > 0] if (pitch > 0).any() else np.zeros(1)
        self.means = pitch.mean(), energy.mean()
        self.deviations = max(pitch.std(), 1e-3), max(energy.std(), 1e-3)

    def __call__(self, prosody: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        pitch, energy = (
            (values - mean) / deviation
            for values, mean, deviation in zip(prosody, self.means, self.deviations, strict=True)
        )
        return np.where(prosody[0] > 0, pitch, 0.0).astype(np.float32), energy.astype(np.float32)


def collator(voice: Voice, model: nn.Module) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    model_config = speaking_part(model).config
    if is_coded(model_config):
        return coded_collator(model_config)
    factor = model_config.reduction_factor
    size = getattr(model_config, "speaker_embedding_dim", None)  # SpeechT5's
    table = np.stack([voice.embedding(name, size) for name in voice.speakers]) if size else None
    padding = voice.tokenizer.pad_token_id or 0
    return partial(collate, padding=padding, factor=factor, table=table)


def collate(examples: Sequence[Mapping[str, Any]], *, padding: int, factor: int, table: np.ndarray | None) -> Batch:
    """input_ids and attention_mask (B, N); mel (B, F, M), -100 after the end, F a multiple of `factor` (up to factor
    - 1 frames are cut off); of aligned examples durations, pitch and energy (B, N); speaker_ids (B,), or of SpeechT5
    speaker_embeddings (B, E)."""
    texts = [example["input_ids"] for example in examples]
    mels = [torch.from_numpy(example["mel"][: len(example["mel"]) // factor * factor]) for example in examples]
    speakers = torch.tensor([example["speaker"] for example in examples])
    batch = {
        "input_ids": pad(texts, padding),
        "attention_mask": attention_mask(texts),
        "mel": pad_sequence(mels, batch_first=True, padding_value=float(IGNORE)),
    }
    if table is None:
        batch["speaker_ids"] = speakers
        for name in ("durations", "pitch", "energy"):
            batch[name] = pad_sequence([torch.from_numpy(example[name]) for example in examples], batch_first=True)
    else:
        batch["speaker_embeddings"] = torch.from_numpy(table)[speakers]
    return batch
