"""Settings of the classification of recordings, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from hftrain.audio.config import NEW_KIND, VariedConfig, new_kind_problems
from hftrain.config import above
from hftrain.labels.config import LabelConfig


@dataclass
class AudioClassificationConfig(VariedConfig, LabelConfig):
    """Recordings, and the class, labels or number to predict for each."""

    HEAD: ClassVar[str] = "ForAudioClassification"
    counted: ClassVar[str] = "frames"

    dataset_name: str | None = "digits"
    """Data set: the built-in spoken digits, one on the Hugging Face Hub, a folder of recordings (FOLDER/CLASS/file, or
    FOLDER/train/CLASS/file), or a folder written by save_to_disk."""

    model: str = NEW_KIND
    """Kind of new model, without model_name_or_path: wav2vec2-bert, which reads log-mel frames."""

    longest_seconds: Annotated[float | None, above(0)] = None
    """Seconds that the model hears: longer recordings are cut to their beginning, and counted; null: 30, for Whisper as
    long as the longest recording, up to 30: its encoder's other positions are cut off."""

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_name_or_path is None:
            from hftrain.models.new import model_problems

            yield from new_kind_problems(self.model, NEW_KIND)
            yield from model_problems(self.model, self.model_config, "AutoModelForAudioClassification")
