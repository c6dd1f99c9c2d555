"""Files to predict from: read like the training files of the model's task, and written with predictions."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hftrain.audio.sources import ENDINGS as AUDIO_ENDINGS
from hftrain.audio.sources import audio_files
from hftrain.config import DataConfig
from hftrain.data.conll import is_tagged, read_lines, with_tags
from hftrain.data.lines import Dialect, Fault, decode, raw_lines
from hftrain.data.readers import Item, check_text
from hftrain.data.sources import COLUMNAR, JSON, PLAIN, SPREADSHEETS, TEXTUAL, check_ending, ending, existing, open_file
from hftrain.data.splits import dialect_of
from hftrain.data.squad import read_squad
from hftrain.data.written import unwritten_or_text
from hftrain.models.saved import is_segmenter
from hftrain.tasks.image_pretraining.predict import is_reconstructor
from hftrain.tasks.speech_recognition.predict import subtitles
from hftrain.tasks.tagging.config import TaggingConfig
from hftrain.tasks.tagging.rows import OF_WORDS, names_columns
from hftrain.tasks.tagging.tables import read_table
from hftrain.terminal import visible
from hftrain.vision.sources import ENDINGS, beside, image_files

logger = logging.getLogger(__name__)

# The usual columns of the text and of the second text, in order of preference.
COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ForTokenClassification": (("tokens", "words", "text"), ()),
    "ForQuestionAnswering": (("question",), ("context",)),
    "ForSequenceClassification": (("text",), ()),
    "ForImageClassification": (("image", "img", "file_name", "path"), ()),
    "ForObjectDetection": (("image", "img", "file_name", "path"), ()),
    "Segmentation": (("image", "img", "file_name", "path"), ()),
}
OF_RECORDINGS = ("audio", "file", "file_name", "path")  # likewise, of models that hear


def reads_images(kind: str) -> bool:
    """Whether models of this kind (`saved.kind`) read images."""
    named = "ForImageClassification" in kind or "ForObjectDetection" in kind
    return named or is_segmenter(kind) or is_reconstructor(kind)


class Inputs(NamedTuple):
    """Texts to predict from, and a function that writes predictions: a list -> lines of text."""

    texts: list[Any]
    pairs: list[str] | None
    write: Callable[[list[Any]], Iterator[str]]
    form: str = "text"  # "rows" are written as JSON lines, "conll" with a tag for each word


@dataclass
class Reading(TaggingConfig, DataConfig):
    """Settings of a file, as the readers of training expect them."""

    column: str | None = None
    """Column of the text; null: the usual one of the task."""

    pair_column: str | None = None
    """Column of the second text of a pair; null: the usual one of the task."""


def read_file(path: Path, kind: str, labels: Sequence[str], config: Reading, line: Callable[[Any], str]) -> Inputs:
    """The texts of a file.

    Args:
        kind: the class of the model, from `saved.kind`; `labels`: the names of its classes.
        line: a prediction -> a line of text, for a plain text file.

    Raises:
        ValueError: the file cannot be read, or a row cannot be used.
    """
    existing(path)
    dialect, form = dialect_of(config), ending(path)
    usual, usual_pair = next((names for task, names in COLUMNS.items() if task in kind), ((), ()))
    tagging = "ForTokenClassification" in kind
    items: Iterator[Item] | None = None
    if tagging and _is_conll(path, labels, config):
        return read_sentences(path, config)
    if tagging and config.column is None:
        items = read_table(path, config, dialect_of(config))
    if "ForQuestionAnswering" in kind:
        items = read_squad(path, config.encoding)
    if reads_images(kind):
        return read_media(path, config, line, usual, "image")
    if items is None and check_ending(path) in PLAIN:
        if config.column or config.pair_column:
            raise ValueError(
                f"--column and --pair_column name columns of a file with rows (jsonl, csv, ...), not {form}"
            )
        texts = read_texts(path, dialect)
        if "ForSequenceClassification" not in kind and not tagging and (sources := _sources(texts)):
            logger.warning("%s has pairs, source TAB target: only the sources are translated", path)
            texts = sources
        return Inputs(texts, None, lambda predictions: map(line, predictions))
    rows = list(read_rows(path, items, dialect))
    texts = column_of(path, rows, "--column", config.column, usual, tagging)
    second = config.pair_column or next((name for name in usual_pair if rows and name in rows[0][1]), None)
    pairs = column_of(path, rows, "--pair_column", second, (), False) if second else None

    def write(predictions: list[Any]) -> Iterator[str]:
        for (_, row), prediction in zip(rows, predictions, strict=True):
            yield json.dumps({**row, "prediction": prediction}, ensure_ascii=False, default=str)

    return Inputs(texts, pairs, write, "rows")


def name_images(names: Sequence[str], line: Callable[[Any], str]) -> Inputs:
    """Image files and folders of them; a line names the file before its prediction."""
    files = image_files(names)

    def write(predictions: list[Any]) -> Iterator[str]:
        for file, prediction in zip(files, predictions, strict=True):
            yield f"{visible(file)}\t{line(prediction)}"

    return Inputs(files, None, write)


def name_audio(names: Sequence[str], line: Callable[[Any], str], form: str | None = None) -> Inputs:
    """Audio files and folders of them; a line names the file before its prediction.

    Args:
        form: of speech with times: json, srt or vtt; None: without times.

    Raises:
        ValueError: subtitles of several recordings.
    """
    files = audio_files(names)
    if form in ("srt", "vtt") and len(files) != 1:
        raise ValueError(f"--times {form} writes the subtitles of one recording, not of {len(files)}")

    def write(predictions: list[Any]) -> Iterator[str]:
        for file, prediction in zip(files, predictions, strict=True):
            if form is None:
                yield f"{visible(file)}\t{line(prediction)}"
            elif form == "json":
                yield json.dumps({"audio": file, **prediction}, ensure_ascii=False)
            else:
                yield subtitles(prediction, form)

    return Inputs(files, None, write)


def read_recordings(path: Path, config: Reading, line: Callable[[Any], str], form: str | None = None) -> Inputs:
    """The recordings of a file with rows, whose paths are relative to it, or of an audio file; `form` as in
    `name_audio`."""
    if ending(path) in AUDIO_ENDINGS:
        return name_audio([str(path)], line, form)
    if form in ("srt", "vtt"):
        raise ValueError(f"--times {form} writes the subtitles of one recording, not of rows: use --times json")
    return read_media(path, config, line, OF_RECORDINGS, "recording")


def as_rows(files: Sequence[str]) -> Callable[[list[Any]], Iterator[str]]:
    """Predictions of image files as JSON lines."""

    def write(predictions: list[Any]) -> Iterator[str]:
        for file, prediction in zip(files, predictions, strict=True):
            yield json.dumps({"image": file, "prediction": prediction}, ensure_ascii=False)

    return write


def read_media(path: Path, config: Reading, line: Callable[[Any], str], usual: Sequence[str], one: str) -> Inputs:
    """The images or recordings (`one` of them, in words) of a file with rows, whose paths are relative to it, or of an
    image file."""
    if ending(path) in ENDINGS:
        return name_images([str(path)], line)
    rows = list(read_rows(path, None, dialect_of(config)))
    column = config.column or next((name for name in usual if rows and name in rows[0][1]), usual[0])
    images = []
    for place, row in rows:
        if row.get(column) is None:
            raise ValueError(f"{place}: no {one} under {column!r}; set --column to one of {', '.join(row)}")
        images += beside(path, [row[column]])

    def write(predictions: list[Any]) -> Iterator[str]:
        for (_, row), prediction in zip(rows, predictions, strict=True):
            named = row[column]["path"] if isinstance(row[column], dict) else row[column]
            shown = {**row, column: named if isinstance(named, str) else None}  # no bytes of images
            yield json.dumps({**shown, "prediction": prediction}, ensure_ascii=False, default=str)

    return Inputs(images, None, write, "rows")


def _is_conll(path: Path, labels: Sequence[str], config: Reading) -> bool:
    """Whether a file has one word per line, in columns: as in training, but a plain text file only if it has tags."""
    form = ending(path)
    if form == ".tsv":
        return (
            config.column is None
            and read_table(path, config, dialect_of(config)) is None
            and not names_columns(path, config, dialect_of(config))
        )
    if form in PLAIN:
        is_conll = config.word_column is not None or is_tagged(path, labels, config.encoding)
        if is_conll:
            logger.warning("%s is read as CoNLL columns: one word per line, its tag in the last column", path)
        return is_conll
    return form not in (*COLUMNAR, *JSON, *SPREADSHEETS)


def read_sentences(path: Path, config: Reading) -> Inputs:
    """The sentences of a CoNLL file as lists of words; each predicted tag is written on the line of its word."""
    sentences, places = [], []
    how: dict[str, Any] = {
        "word_column": config.word_column,
        "tag_column": config.tag_column,
        "encoding": config.encoding,
    }
    for numbers, values in read_lines(path, **how):
        if isinstance(values, Fault):
            raise ValueError(f"{path}, line {numbers[0]}: {values}")
        sentences.append(values[0])
        places.append(numbers)

    def write(predictions: list[Any]) -> Iterator[str]:
        tags = {
            number: word["tag"]
            for numbers, words in zip(places, predictions, strict=True)
            for number, word in zip(numbers, words, strict=True)
        }
        return with_tags(path, tags, config.encoding)

    return Inputs(sentences, None, write, "conll")


def _sources(texts: Sequence[str]) -> list[str]:
    """The first of two TAB-separated parts in each line; [] if a line does not have two."""
    parts = [text.split("\t") for text in texts]
    filled = [part for part in parts if part != [""]]
    return [part[0] for part in parts] if filled and all(len(part) == 2 for part in filled) else []


def read_texts(path: Path, dialect: Dialect) -> list[str]:
    """The lines of a text file, including empty ones."""
    check_text(path, dialect.encoding)
    texts = []
    for number, raw in raw_lines(path, dialect.encoding):
        try:
            texts.append(decode(raw).rstrip("\r\n"))
        except Fault as fault:
            raise ValueError(f"{path}, line {number}: {fault}. {fault.advice}") from None
    return texts


def read_rows(path: Path, items: Iterator[Item] | None, dialect: Dialect) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a file, from `items` of its own reader if there is one.

    Raises:
        ValueError: a row cannot be used, or already has a prediction.
    """
    opened = None if items else open_file(path, {"row": ""}, dialect)
    for number, values in items or (opened.items if opened else ()):
        place = f"{path}, {opened.unit if opened else 'line'} {number}"
        if isinstance(values, Fault):
            way_out = f". {values.advice}" if values.advice != Fault.advice else ""
            raise ValueError(f"{place}: {values}{way_out}")
        row = values[0]
        if "prediction" in row:
            raise ValueError(f'{place}: already has a "prediction", which would be overwritten')
        yield place, row


def column_of(
    path: Path,
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    option: str,
    column: str | None,
    usual: Sequence[str],
    tagging: bool,
) -> list[Any]:
    """The texts in the column of `option`, or in one of the `usual` columns; for tagging also lists of words.

    Raises:
        ValueError: the column does not exist, or has no text.
    """
    values = []
    for place, row in rows:
        name = column or next((name for name in usual if name in row), None)
        value = row.get(name) if name else None
        if tagging and isinstance(value, str):
            value = unwritten_or_text(value)
        if tagging and isinstance(value, str):  # if spaces separate the tags, they separate the words too
            tags = next((row[usual_name] for usual_name in OF_WORDS if isinstance(row.get(usual_name), str)), "")
            value = value.split() if tags and len(tags.split()) == len(value.split()) else value
        words = isinstance(value, list) and all(isinstance(word, str) and word for word in value)
        if not isinstance(value, str) and not words:
            text = f"set {option} to " if name is None else f"no text in {name!r}; set {option} to "
            header = ending(path) in (*SPREADSHEETS, ".tsv", ".tab") and name is None
            more = "; if these are values of the first row, name the columns by --column_names" if header else ""
            raise ValueError(f"{place}: {text}one of {', '.join(row)}{more}")
        values.append(value)
    return values


def check_output(path: Path, form: str) -> None:
    """Raises: ValueError, the ending of the output does not fit its content."""
    kind = ending(path)
    if form == "rows" and kind in (*COLUMNAR, *set(TEXTUAL).difference(JSON)):
        raise ValueError(f"--output {path}: rows are written as JSON lines: use the ending .jsonl")
    if form == "conll" and kind in (*COLUMNAR, *JSON):
        raise ValueError(f"--output {path}: lines are written with a tag for each word: use the ending .conll")
