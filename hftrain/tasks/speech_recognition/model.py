"""The model that writes what it hears, and what it reads and writes with: CTC or an encoder-decoder."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from inspect import signature
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    PreTrainedConfig,
    WhisperFeatureExtractor,
)

from hftrain.audio.config import NEW_KIND
from hftrain.audio.features import MEL_BANDS, NEW_ENCODER, STEADY, Features, load_extractor, new_extractor
from hftrain.audio.windows import hear_less, within_window
from hftrain.models import load
from hftrain.models.new import naming_model_config
from hftrain.models.saved import Saved, recall, remember
from hftrain.models.trust import refusing_code
from hftrain.tasks.speech_recognition.config import WHISPER, TranscribeConfig
from hftrain.text import train_tokenizer

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

BLANK, UNKNOWN, SPACE = "[PAD]", "[UNK]", "|"


class Listener:
    """What a model reads and writes with; saved beside it as transformers reads it.

    Args:
        start: the token that an encoder-decoder begins with; None: CTC, whose blank is the tokenizer's pad token.
    """

    def __init__(self, features: Features, tokenizer: Any, start: int | None, text_case: str):
        self.features, self.tokenizer, self.start, self.text_case = features, tokenizer, start, text_case

    @property
    def seq2seq(self) -> bool:
        return self.start is not None

    def spell(self, text: str) -> list[int]:
        """The labels of a text; of an encoder-decoder what follows `start`, with the token that ends it."""
        ids: list[int] = self.tokenizer(in_case(text, self.text_case), add_special_tokens=self.seq2seq).input_ids
        return ids[1:] if ids and ids[0] == self.start else ids

    def text_of(self, path: Sequence[int]) -> str:
        """The text of the tokens of CTC's frames: repeats and blanks are left out."""
        tokens = [token for token, _ in groupby(path) if token != self.tokenizer.pad_token_id]
        # tokenizers of CTC would take a letter that is written twice for a repeat, now that no blank is between
        how = {"group_tokens": False} if "group_tokens" in signature(self.tokenizer._decode).parameters else {}
        return str(self.tokenizer.decode(tokens, **how)).strip()

    def unknown(self, text: str) -> str:
        """The characters of a text that a CTC vocabulary lacks."""
        if self.seq2seq or self.tokenizer.unk_token_id is None:
            return ""
        known, cased = self.tokenizer.get_vocab(), in_case(text, self.text_case)
        single = all(len(token) == 1 for token in known if token not in self.tokenizer.all_special_tokens)
        return "".join(sorted({sign for sign in cased if sign not in known and sign != " "})) if single else ""

    def save_pretrained(self, folder: str | Path) -> None:
        self.features.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def in_case(text: str, case: str) -> str:
    return {"lower": text.lower(), "upper": text.upper()}.get(case, text)


def load_listener(config: TranscribeConfig, rows: Mapping[str, Rows]) -> Listener:
    """The feature extractor and the tokenizer of the model that `config` names; a new model, or one that was never
    taught to write, gets the characters of the training texts as its vocabulary.

    Raises:
        ValueError: the model has no feature extractor, or is a Whisper without tokenizer.
    """
    name = config.model_name_or_path
    config.choose_length(8.0)
    if name is None:
        config.choose("text_case", "lower", "a new vocabulary")
        if config.model != WHISPER:
            return Listener(
                Features(new_extractor()), learn_vocabulary(rows["train"], config), None, str(config.text_case)
            )
        config.choose("vocab_size", 1000, "a new encoder-decoder")
        tokenizer = learn_vocabulary(rows["train"], config)
        features = within_window(Features(WhisperFeatureExtractor(MEL_BANDS)), rows, config, "window_seconds")
        return Listener(features, tokenizer, tokenizer.bos_token_id, str(config.text_case))
    start = start_of(load.load_model_config(config), name)
    extractor = load_extractor(name, config.model_revision, trust_remote_code=config.trust_remote_code)
    try:
        tokenizer = load.load_tokenizer(config)
    except (ValueError, TypeError):
        if start is not None or config.tokenizer_name_or_path is not None:
            raise
        tokenizer = None  # a model that was only pretrained
    new = tokenizer is None
    config.choose("text_case", "lower" if new else "unchanged", "a new vocabulary" if new else "the model's vocabulary")
    features = within_window(Features(extractor), rows, config, "window_seconds")
    if config.language is not None:
        if not hasattr(tokenizer, "set_prefix_tokens"):
            raise ValueError(f"language: {name} does not choose among languages; remove the setting")
        tokenizer.set_prefix_tokens(language=config.language, task=config.task, predict_timestamps=False)
    return Listener(features, tokenizer or learn_vocabulary(rows["train"], config), start, str(config.text_case))


def start_of(config: PreTrainedConfig, name: str | Path) -> int | None:
    """The token that an encoder-decoder begins with; None of other models. Raises: ValueError, it names none."""
    if not config.is_encoder_decoder:
        return None
    start: int | None = getattr(config, "decoder_start_token_id", None)
    if start is None:
        raise ValueError(f"the configuration of {name} has no decoder_start_token_id, with which its texts begin")
    return start


def saved_listener(saved: Saved) -> Listener:
    """What a finished model reads and writes with.

    Raises:
        ValueError: the folder has no feature extractor or tokenizer.
    """
    folder, trust = saved.folder, saved.trust_remote_code
    features = Features(load_extractor(str(folder), trust_remote_code=trust))
    with refusing_code(folder):
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{folder} has no tokenizer: {error}") from error
    case = (recall(saved.config, "transcription") or {}).get("text_case", "unchanged")
    return Listener(features, tokenizer, start_of(saved.config, folder), case)


def learn_vocabulary(rows: Rows, config: TranscribeConfig) -> Any:
    """A tokenizer whose tokens are the characters of the training texts, or `vocab_size` byte pairs."""
    from transformers import Wav2Vec2CTCTokenizer

    texts = [in_case(text, str(config.text_case)) for text in rows["text"]]
    if config.vocab_size is not None:
        return train_tokenizer(texts, config.vocab_size)
    signs = sorted({sign for text in texts for sign in text} - {" ", SPACE})
    vocabulary = {token: number for number, token in enumerate([BLANK, UNKNOWN, SPACE, *signs])}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps(vocabulary), encoding="utf-8")
        how = {"pad_token": BLANK, "unk_token": UNKNOWN, "word_delimiter_token": SPACE}
        return Wav2Vec2CTCTokenizer(str(file), bos_token=None, eos_token=None, **how)


def load_recogniser(config: TranscribeConfig, listener: Listener) -> Any:
    """The model that `config` names, or a new small one, for the vocabulary of `listener`; Whisper for its window.

    Raises:
        ValueError: the model cannot be loaded, is to be cut in pieces (ZeRO-3), or needs a language, or has none.
    """
    if listener.seq2seq:
        new = new_whisper(listener)
        model = load.load_model(config, AutoModelForSpeechSeq2Seq, new=lambda: new_shape(config, new))
        if listener.features.fixed:
            hear_less(model, listener.features.window or 30)
        write_in(model, config.language, config.task)
        model.generation_config.max_length = model.config.max_target_positions
    else:
        own = {"vocab_size": len(listener.tokenizer), "pad_token_id": listener.tokenizer.pad_token_id}
        model = load.load_model(config, AutoModelForCTC, new=lambda: new_shape(config, own), settings=own | STEADY)
    language = {"language": config.language, "task": config.task} if config.language else {}
    settings = {"normalizer": config.normalizer, "text_case": listener.text_case, **language}
    remember(model.config, transcription=settings)
    return load.add_adapters(model, config, None)


def new_whisper(listener: Listener) -> dict[str, Any]:
    """The shape of a small Whisper that writes the vocabulary of `listener`."""
    tokenizer, window = listener.tokenizer, listener.features.window or 30
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    inner = {"encoder_ffn_dim": 512, "decoder_ffn_dim": 512}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    lengths = {"max_source_positions": 50 * window, "max_target_positions": 448, "num_mel_bins": MEL_BANDS}
    special = {**ids, "decoder_start_token_id": listener.start, "begin_suppress_tokens": None}
    layers = {"d_model": 128, "encoder_layers": 3, "decoder_layers": 3}
    return {**layers, **heads, **inner, **lengths, **special, "vocab_size": len(tokenizer)}


def new_shape(config: TranscribeConfig, own: dict[str, Any]) -> PreTrainedConfig:
    """The configuration of a new model. Raises: ValueError, a value of `model_config` that it refuses."""
    shape = (NEW_ENCODER if config.model == NEW_KIND else {}) | own
    with naming_model_config():
        return AutoConfig.for_model(config.model, **shape | config.model_config)


def write_in(model: Any, language: str | None, task: str) -> None:
    """Lets a multilingual Whisper write in a language. Raises: ValueError, it needs one, or the model has only one."""
    multilingual = getattr(model.generation_config, "is_multilingual", None)
    if multilingual and language is None:
        raise ValueError(f"{model.name_or_path} writes many languages: set language, for instance --language en")
    if language is None:
        return
    if multilingual is False:
        raise ValueError(f"language: {model.name_or_path} writes English only; remove the setting")
    model.generation_config.language, model.generation_config.task = language, task
