"""Settings that all tasks of audio have, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from hftrain.config import RecipeConfig, at_least


@dataclass
class AudioConfig(RecipeConfig):
    """Recordings: where they are."""

    BUILT_IN: ClassVar[str] = "digits"  # the data set that needs no download

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
class SpeechConfig(AudioConfig):
    """Recordings with the text that is spoken in them."""

    text_column: str = "text"
    """Column of the text that is spoken."""

    speaker_column: str | None = None
    """Column of the speaker's name; null: not known, or as the layout of the data set has it."""
