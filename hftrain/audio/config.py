"""Settings that all tasks of audio have, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from hftrain.config import RecipeConfig, at_least, between, share
from hftrain.config.defaults import Task

if TYPE_CHECKING:
    from hftrain.audio.augment import Augmentation


NEW_KIND = "wav2vec2-bert"  # the encoder whose input `features.NEW_ENCODER` fits to log-mel frames


def new_kind_problems(kind: str, *kinds: str) -> Iterator[tuple[Sequence[str], str]]:
    """For `late_checks`: `kind` of a new model must be one of `kinds`."""
    if kind not in kinds:
        advice = f"choose {' or '.join(kinds)}, or set model_name_or_path to a pretrained model"
        yield ("model",), f"a new {kind} cannot read log-mel frames here: {advice}"


@dataclass
class AudioConfig(RecipeConfig):
    """Recordings: where they are."""

    BUILT_IN: ClassVar[str] = "digits"  # the data set that needs no download
    task_family: ClassVar[Task] = "speech"

    audio_column: str = "audio"
    """Column of the recordings: paths, relative to the file that names them, or the bytes of audio files."""

    start_column: str | None = None
    """Column of the second at which a part of the recording begins; null: the whole recording."""

    end_column: str | None = None
    """Column of the second at which a part of the recording ends; null: the whole recording."""

    dataloader_num_workers: Annotated[int, at_least(0)] = 2
    """Worker processes that decode and augment recordings; 0: the training process itself."""

    @property
    def built_in(self) -> bool:
        return self.train_file is None and self.dataset_name == self.BUILT_IN

    def choose_length(self, epochs: float) -> None:
        """Chooses so many epochs for a new model of the built-in digits."""
        if self.built_in and self.model_name_or_path is None and self.max_steps is None:
            self.choose("num_train_epochs", epochs, "the built-in digits need no more")

    @property
    def span_columns(self) -> dict[str, str]:
        """Our name -> the column of the data."""
        named = {"start": self.start_column, "end": self.end_column}
        return {name: column for name, column in named.items() if column is not None}

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if (self.start_column is None) != (self.end_column is None):
            yield ("start_column", "end_column"), "name the two ends of a part: set both, or neither"


@dataclass
class VariedConfig(AudioConfig):
    """Recordings that are a little different each time."""

    speed: Annotated[float | None, share] = None
    """Augmentation: recordings are up to this share faster or slower, their pitch with it; null: 0.1, for the built-in
    digits 0."""

    shift_seconds: Annotated[float, at_least(0)] = 0.0
    """Augmentation: silence of up to this many seconds before a recording."""

    gain_decibels: Annotated[float | None, at_least(0)] = None
    """Augmentation: recordings are up to this much louder or softer; null: 6, for the built-in digits 0."""

    noise: Annotated[float, between(0, 1)] = 0.0
    """Augmentation: probability of white noise."""

    noise_decibels: float = 10.0
    """Augmentation: lowest signal-to-noise ratio; the highest is 20 more."""

    time_masks: Annotated[int | None, at_least(0)] = None
    """Augmentation: spans of up to a tenth of the time that are covered (SpecAugment, arXiv 1904.08779); null: 2, for
    the built-in digits 0."""

    band_masks: Annotated[int | None, at_least(0)] = None
    """Augmentation: spans of up to a fifth of the mel bands that are covered; models of raw waves have none; null: 2,
    for the built-in digits 0."""

    def augmentation(self) -> "Augmentation":
        """What is done to a recording; what is open is chosen."""
        from hftrain.audio.augment import Augmentation

        usual = {"speed": 0.1, "gain_decibels": 6.0, "time_masks": 2, "band_masks": 2}
        for name, value in usual.items():
            reason = "the built-in digits are drawn with variation" if self.built_in else "usual"
            self.choose(name, type(value)(0) if self.built_in else value, reason)
        return Augmentation(
            self.speed or 0.0,
            self.shift_seconds,
            self.gain_decibels or 0.0,
            self.noise,
            self.noise_decibels,
            self.time_masks or 0,
            self.band_masks or 0,
        )


@dataclass
class SpeechConfig(AudioConfig):
    """Recordings with the text that is spoken in them."""

    text_column: str = "text"
    """Column of the text that is spoken."""

    speaker_column: str | None = None
    """Column of the speaker's name; null: unknown, or as in the layout of the data set."""
