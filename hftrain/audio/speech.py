"""Rows of speech: recordings with the text that is spoken in them, for every task that learns from both."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hftrain.audio.config import SpeechConfig
from hftrain.audio.digits import strings
from hftrain.audio.layouts import corpus_files, corpus_reader
from hftrain.audio.sources import AUDIO, ENDINGS, Contents, locate, name_leaks, read_span
from hftrain.config.sources import read_source
from hftrain.data.media import beside
from hftrain.data.readers import text
from hftrain.data.sources import COLUMNAR, TEXTUAL, ending, visible_files
from hftrain.data.splits import load_splits
from hftrain.data.tables import is_saved
from hftrain.data.unread import Unread

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

SPEECH = AUDIO.append(pa.field("speaker", pa.string())).append(pa.field("text", pa.string()))


def load_speech(config: SpeechConfig, seed: int, built_in: Callable[[], Path] = strings) -> dict[str, Rows]:
    """Rows of each split with the columns of `AUDIO`, "speaker" ("" if not known) and "text".

    Args:
        built_in: makes the data set that needs no download.

    Raises:
        ValueError: rows that cannot be used, with their lines: recordings that are missing, truncated, corrupt, empty
            or silent, parts that are not in their recording, texts that are empty, the same recording with other text.
    """
    if config.built_in:
        config = replace(config, dataset_name=str(built_in()), speaker_column="speaker")
    config, corpus = with_corpus(config)
    named = {"audio": config.audio_column, **config.span_columns, "text": config.text_column}
    if config.speaker_column is not None:
        named["speaker"] = config.speaker_column
    if corpus:
        named = {name: name for name in ("audio", "start", "end", "text", "speaker")}
    places = {name: place for place, name in enumerate(named)}

    def read(values: list[Any], names: list[str]) -> list[Any]:
        path = locate(values[0], names[0])
        ends = [place for name, place in places.items() if name in ("start", "end") and values[place] is not None]
        span = read_span([values[place] for place in ends], [names[place] for place in ends])
        speaker = values[places["speaker"]] if "speaker" in places else None
        spoken = places["text"]
        return [path, *span, "" if speaker is None else str(speaker), text(values[spoken], names[spoken])]

    unread = Unread()
    rows = load_splits(
        config,
        columns=named,
        compare=["content", "text"],
        read=read,
        schema=SPEECH,
        seed=seed,
        unread=unread,
        reader=corpus_reader(list(named)),
        endings=ENDINGS,
        resolve=beside,
        finish=Contents("text").look,
    )
    unread.warn("audio_column, text_column and speaker_column choose the columns")
    name_leaks(rows)
    describe_audio(rows)
    return rows


def with_corpus(config: SpeechConfig) -> tuple[SpeechConfig, bool]:
    """The settings with the files of the corpus that `dataset_name` names, and whether the rows are those of a corpus.

    Raises:
        ValueError: a corpus without training rows.
    """
    if config.train_file is not None:
        reader = corpus_reader([])
        files = [Path(read_source(written).name).expanduser() for written in config.train_file]
        return config, any(file.is_file() and reader(file) is not None for file in files)
    folder = Path(config.dataset_name or "").expanduser()
    if not folder.is_dir() or is_saved(folder):
        return config, False
    patterns = corpus_files(folder)
    if not patterns:
        kinds = {ending(file) for file in visible_files(folder)}
        if kinds & {*ENDINGS} and not kinds & {*COLUMNAR, *TEXTUAL}:
            raise ValueError(
                f"{folder} has recordings but no texts: name them with their texts in a file (jsonl, csv, tsv), or "
                "use a layout of LibriSpeech, LJSpeech (metadata.csv, wavs/), Common Voice or Kaldi"
            )
        return config, False
    if "train" not in patterns:
        raise ValueError(f"{folder} has no training rows, only {', '.join(sorted(patterns))}")
    by_split: dict[str, Any] = {f"{split}_file": names for split, names in patterns.items()}
    return replace(config, dataset_name=None, **by_split), True


def describe_audio(rows: Mapping[str, Rows]) -> None:
    """Logs how long the recordings are, and what is done to those that are not mono."""
    seconds = {name: float(np.sum(split["seconds"][:])) for name, split in rows.items()}
    logger.warning("audio: %s", ", ".join(f"{hours(value)} {name}" for name, value in seconds.items()))
    channels = Counter(number for split in rows.values() for number in split["channels"])
    if several := sum(count for number, count in channels.items() if number > 1):
        logger.warning("%d recordings have several channels, which are averaged", several)


def hours(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
