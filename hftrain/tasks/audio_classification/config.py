"""Settings of the classification of recordings, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from hftrain.audio.config import AudioConfig
from hftrain.config import above, at_least, between, share
from hftrain.labels.config import LabelConfig


@dataclass
class AudioClassificationConfig(AudioConfig, LabelConfig):
    """Recordings, and the class, labels or number to predict for each."""

    HEAD: ClassVar[str] = "ForAudioClassification"
    counted: ClassVar[str] = "frames"

    dataset_name: str | None = "digits"
    """Data set: the built-in spoken digits, one on the Hugging Face Hub, a folder of recordings (FOLDER/CLASS/file, or
    FOLDER/train/CLASS/file), or a folder written by save_to_disk."""

    model: str = "wav2vec2-bert"
    """Kind of new model, without model_name_or_path, a model type of transformers that reads log-mel frames."""

    longest_seconds: Annotated[float, above(0)] = 30.0
    """Seconds that the model hears: longer recordings are cut to their beginning, and counted."""

    speed: Annotated[float, share] = 0.1
    """Augmentation: recordings are up to this share faster or slower, their pitch with it."""

    shift_seconds: Annotated[float, at_least(0)] = 0.0
    """Augmentation: silence of up to this many seconds before a recording."""

    gain_decibels: Annotated[float, at_least(0)] = 6.0
    """Augmentation: recordings are up to this much louder or softer."""

    noise: Annotated[float, between(0, 1)] = 0.0
    """Augmentation: probability of white noise, at a signal-to-noise ratio of 10 to 30 decibels."""

    time_masks: Annotated[int, at_least(0)] = 2
    """Augmentation: spans of up to a tenth of the time that are covered (SpecAugment, arXiv 1904.08779)."""

    band_masks: Annotated[int, at_least(0)] = 2
    """Augmentation: spans of up to a fifth of the mel bands that are covered; models of raw waves have none."""

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_name_or_path is None:
            from hftrain.models.new import model_problems

            yield from model_problems(self.model, self.model_config, "AutoModelForAudioClassification")
