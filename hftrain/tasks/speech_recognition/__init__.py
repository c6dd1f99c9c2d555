"""Speech recognition: the text that is spoken in a recording, by CTC or an encoder-decoder."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.speech_recognition.config import TranscribeConfig
    from hftrain.tasks.speech_recognition.examples import augmentation, collator, make_examples
    from hftrain.tasks.speech_recognition.losses import recognition
    from hftrain.tasks.speech_recognition.model import Listener, load_listener, load_recogniser
    from hftrain.tasks.speech_recognition.report import summarize
    from hftrain.tasks.speech_recognition.scoring import Heard, measure, transcribe
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "Heard",
    "Listener",
    "TranscribeConfig",
    "augmentation",
    "collator",
    "load_listener",
    "load_recogniser",
    "make_examples",
    "measure",
    "recognition",
    "summarize",
    "transcribe",
]
