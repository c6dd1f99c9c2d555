"""Recordings with their labels."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hftrain.audio.digits import digits
from hftrain.audio.sources import AUDIO, ENDINGS, Contents, locate, name_leaks, read_audio_file, read_span
from hftrain.audio.speech import describe_audio
from hftrain.data.media import beside
from hftrain.labels import rows as labelled
from hftrain.tasks.audio_classification.config import AudioClassificationConfig

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


def load_recordings(config: AudioClassificationConfig, seed: int) -> "dict[str, Rows]":
    """Rows of each split with the columns of `AUDIO` and "label"; the labels are as in `hftrain.labels.rows`, of
    recordings in folders the folder's name.

    Raises:
        ValueError: rows that cannot be used, with their lines: recordings that are missing, truncated, corrupt, empty
            or silent, or that occur again with another label.
    """
    if config.built_in:
        config = replace(config, dataset_name=str(digits()))

    def read(values: list[Any], names: list[str]) -> list[Any]:
        return [locate(values[0], names[0]), *read_span(values[1:], names[1:])]

    rows = labelled.load_labelled(
        config,
        seed,
        columns={"audio": config.audio_column, **config.span_columns},
        inputs=AUDIO,
        read=read,
        settings="audio_column",
        same=["content"],
        reader=None if config.span_columns else read_audio_file,
        endings=ENDINGS,
        resolve=beside,
        finish=Contents().look,
    )
    name_leaks(rows)
    describe_audio(rows)
    return rows
