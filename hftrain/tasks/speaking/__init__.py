"""Speech synthesis: a model learns to speak text from recordings of it."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.speaking.config import SpeakConfig
    from hftrain.tasks.speaking.examples import collator, make_examples
    from hftrain.tasks.speaking.losses import loss_for
    from hftrain.tasks.speaking.model import begin_at_mean, load_model
    from hftrain.tasks.speaking.report import summarize
    from hftrain.tasks.speaking.rows import load_recordings, speakers_of
    from hftrain.tasks.speaking.scoring import Stage
    from hftrain.tasks.speaking.voice import Voice, load_voice
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "SpeakConfig",
    "Stage",
    "Voice",
    "begin_at_mean",
    "collator",
    "load_model",
    "load_recordings",
    "load_voice",
    "loss_for",
    "make_examples",
    "speakers_of",
    "summarize",
]
