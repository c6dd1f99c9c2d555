"""What a voice needs beside its model: tokens of a text, spectrograms of a wave, its speakers.

Shapes: N tokens, F frames, M mel bands, E size of a speaker embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hftrain.audio.mel import AUDIBLE, FLOOR, LogMel
from hftrain.audio.spoken import Normaliser, spoken
from hftrain.models import load
from hftrain.models.saved import Saved, recall
from hftrain.tasks.speaking.codec import AUTO, TAGS, load_processor
from hftrain.tasks.speaking.config import SpeakConfig
from hftrain.text.tokenizer import SPECIAL_TOKENS

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

FILE = "preprocessor_config.json"
HIGHEST_RATE = 22_050  # samples per second of a new model
LEARNING = ("fastspeech2_conformer", "speecht5", *AUTO)
REFUSED = {
    "vits": "VITS learns against a discriminator, which transformers does not have (its training raises an error)",
    "pocket_tts": "the loss of Pocket TTS draws noise for each micro-batch, and each moves the statistics of frames, "
    "so that results would depend on the cuts",
    "fastspeech2_conformer_with_hifigan": "it is a FastSpeech2 together with its vocoder: take the FastSpeech2 "
    "alone, and the HiFi-GAN as vocoder",
}


@dataclass(frozen=True)
class Voice:
    """Saved beside the model, and in its configuration (`remembered`). A model that speaks in codes has a `kind` and
    transformers' `processor`, and its `mel` only shows and compares what is spoken."""

    tokenizer: PreTrainedTokenizerBase
    mel: LogMel
    speakers: Sequence[str]
    normaliser: Normaliser
    max_seconds: float
    kind: str | None = None
    processor: Any = None

    def tokens(self, text: str, speaker: str) -> np.ndarray:
        """(N,)."""
        read = spoken(text, self.normaliser)
        if self.kind is not None:
            tag, first = TAGS[self.kind]
            read = tag.format(first + self.speakers.index(speaker)) + read
        return np.array(self.tokenizer(read)["input_ids"], np.int64)

    def unknown(self, text: str) -> str:
        """A character that the tokenizer does not know, "" if it knows all."""
        tokens, unknown = self.tokenizer, self.tokenizer.unk_token_id
        if unknown not in tokens(spoken(text, self.normaliser))["input_ids"]:
            return ""
        letters = [letter for letter in spoken(text, self.normaliser) if not letter.isspace()]
        return next((one for one in letters if unknown in tokens(one, add_special_tokens=False)["input_ids"]), text)

    def frames(self, seconds: float) -> int:
        return 1 + round(seconds * self.mel.rate) // self.mel.hop

    @property
    def most_frames(self) -> int:
        return self.frames(self.max_seconds)

    def embedding(self, speaker: str, size: int) -> np.ndarray:
        """(E,) of length 1: a direction of its own for each name, drawn from the name."""
        seed = int.from_bytes(hashlib.sha256(speaker.encode()).digest()[:8], "big")
        drawn = np.random.default_rng(seed).normal(size=size)
        return (drawn / np.linalg.norm(drawn)).astype(np.float32)

    def remembered(self) -> dict[str, Any]:
        """For `hftrain.models.saved.remember`."""
        return {
            "mel": asdict(self.mel),
            "speakers": [*self.speakers],
            "text_normalizer": self.normaliser,
            "max_seconds": self.max_seconds,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """The tokenizer's files and `preprocessor_config.json`, as transformers' processor loads them."""
        if self.processor is not None:
            self.processor.save_pretrained(folder)
            return
        self.tokenizer.save_pretrained(folder)
        mel = self.mel
        settings = {
            "feature_extractor_type": "SpeechT5FeatureExtractor",
            "sampling_rate": mel.rate,
            "num_mel_bins": mel.bands,
            "win_length": mel.window * 1000 / mel.rate,
            "hop_length": mel.hop * 1000 / mel.rate,
            "fmin": mel.low,
            "fmax": mel.high,
            "mel_floor": mel.floor,
        }
        (Path(folder) / FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_voice(config: SpeakConfig, rows: Mapping[str, Rows], speakers: Sequence[str]) -> Voice:
    """The voice of the model that `config` names, or of a new one, whose tokens are the characters of the training
    rows. The rate is chosen where it is open, and is then in `config`.

    Raises:
        ValueError: a model that does not learn to speak from spectrograms, with the reason, or a rate that the model or
            the vocoder does not have.
    """
    if config.model_name_or_path is not None:
        kind = load.load_model_config(config).model_type
        if kind not in LEARNING:
            reason = REFUSED.get(kind, f"a {kind} does not learn to make spectrograms of text")
            raise ValueError(
                f"model_name_or_path {config.model_name_or_path!r}: {reason}; take SpeechT5, FastSpeech2, CSM or Dia"
            )
        if kind in AUTO:
            return coded_voice(config, kind, speakers)
    config.choose_length(32.0)
    tokenizer = load.load_tokenizer(config) or train_characters(rows["train"]["text"], config.text_normalizer)
    if config.model_name_or_path is None:
        counts = Counter(rows["train"]["rate"])
        usual = min(HIGHEST_RATE, counts.most_common(1)[0][0])
        reason = "the rate of most recordings, at most 22,050"
        if config.vocoder is not None:
            usual, reason = vocoder_config(config.vocoder).sampling_rate, "the rate of the vocoder"
        config.choose("sampling_rate", usual, reason)
        assert config.sampling_rate is not None
        # a logarithm of -10 in silent frames would take most of a new model's loss; a vocoder has seen it
        mel = LogMel.at(config.sampling_rate, FLOOR if config.vocoder else AUDIBLE)
    else:
        mel = pretrained_mel(config)
        config.choose("sampling_rate", mel.rate, f"the rate of {config.model_name_or_path}")
        if config.sampling_rate != mel.rate:
            raise ValueError(f"sampling_rate={config.sampling_rate}, but {config.model_name_or_path} speaks {mel.rate}")
    return Voice(tokenizer, mel, speakers, config.text_normalizer, config.max_seconds)


def coded_voice(config: SpeakConfig, kind: str, speakers: Sequence[str]) -> Voice:
    """The voice of a model that speaks in codes. Raises: ValueError, a setting that it has no use for."""
    name = config.model_name_or_path
    assert name is not None
    processor = load_processor(kind, name)
    rate = processor.feature_extractor.sampling_rate
    config.choose("sampling_rate", rate, f"the rate of {name}")
    for setting, use in {"vocoder": "codec", "tokenizer_name_or_path": "tokenizer"}.items():
        if getattr(config, setting) is not None:
            raise ValueError(f"{setting} has no use here: {name} has its own {use}. Leave it open")
    if config.sampling_rate != rate:
        raise ValueError(f"sampling_rate={config.sampling_rate}, but {name} speaks {rate}")
    mel = LogMel.at(rate)
    return Voice(processor.tokenizer, mel, speakers, config.text_normalizer, config.max_seconds, kind, processor)


def pretrained_mel(config: SpeakConfig) -> LogMel:
    """What a model was trained with: as hftrain remembers it, as its `preprocessor_config.json` has it, or ESPnet's
    22,050 samples per second of FastSpeech2-Conformer."""
    assert config.model_name_or_path is not None
    model_config = load.load_model_config(config)
    if settings := recall(model_config, "mel"):
        return LogMel(**settings)
    file = Path(config.model_name_or_path) / FILE
    if file.is_file():
        return LogMel.of(json.loads(file.read_text(encoding="utf-8")))
    return LogMel.at(HIGHEST_RATE if model_config.model_type == "fastspeech2_conformer" else 16_000)


def saved_voice(saved: Saved) -> Voice:
    """The voice of a finished model. Raises: ValueError, the folder does not have one that hftrain saved."""
    from transformers import AutoTokenizer

    remembered = {name: recall(saved.config, name) for name in ("mel", "speakers", "text_normalizer", "max_seconds")}
    if None in remembered.values():
        raise ValueError(f"{saved.folder} has no settings of a voice in config.json: give the output folder of a run")
    settings, kind = list(remembered.values()), saved.config.model_type
    about = (LogMel(**settings[0]), settings[1], settings[2], settings[3])
    if kind in AUTO:
        processor = load_processor(kind, str(saved.folder))
        return Voice(processor.tokenizer, *about, kind, processor)
    return Voice(AutoTokenizer.from_pretrained(saved.folder, trust_remote_code=saved.trust_remote_code), *about)


def train_characters(texts: Sequence[str], normaliser: Normaliser) -> PreTrainedTokenizerFast:
    """A tokenizer of characters, those of `texts`; a text is between <s> and </s>, which have the silence there."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    letters = sorted({letter for text in texts for letter in spoken(text, normaliser)})
    names = {name: number for number, name in enumerate([*SPECIAL_TOKENS.values(), *letters])}
    raw = Tokenizer(models.WordLevel(names, unk_token=SPECIAL_TOKENS["unk_token"]))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    first, last = SPECIAL_TOKENS["bos_token"], SPECIAL_TOKENS["eos_token"]
    raw.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(name, names[name]) for name in (first, last)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, **SPECIAL_TOKENS)


def vocoder_config(name: str) -> Any:
    """Raises: ValueError, not a HiFi-GAN."""
    from transformers import SpeechT5HifiGanConfig

    try:
        config = SpeechT5HifiGanConfig.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        raise ValueError(load.cannot_load("vocoder", name, error)) from error
    if "hifigan" not in config.model_type:
        raise ValueError(f"vocoder {name!r} is a {config.model_type}, not a HiFi-GAN")
    return config
