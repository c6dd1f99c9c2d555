"""Audio: decoding, durations and contents, sources of speech, spoken digits of our own, features, augmentation."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.audio.config import AudioConfig, SpeechConfig
    from hftrain.audio.decoding import decode, read
    from hftrain.audio.sources import ENDINGS
    from hftrain.audio.speech import load_speech
else:
    __getattr__ = lazily(__name__)

__all__ = ["ENDINGS", "AudioConfig", "SpeechConfig", "decode", "load_speech", "read"]
