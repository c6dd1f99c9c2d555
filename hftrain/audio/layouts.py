"""Layouts of corpora of speech: LibriSpeech, LJSpeech, Common Voice, Kaldi.

Each is read by the file that has its texts, which is known by its name and by what is beside it.
"""

from __future__ import annotations

import csv
import glob
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hftrain.data.lines import Fault, decode, raw_lines
from hftrain.data.readers import Item
from hftrain.data.sources import Reader, split_of, visible_files

Values = dict[str, Any]  # audio, start, end, text, speaker
LJSPEECH, KALDI, LIBRISPEECH = "metadata.csv", "wav.scp", ".trans.txt"
COMMON_VOICE = {"train": "train", "dev": "validation", "test": "test"}


def corpus_reader(fields: list[str]) -> Callable[[Path], Reader | None]:
    """For `load_rows`: a file of one of the layouts -> its rows, with the values of `fields` ("audio", "start", "end",
    "text", "speaker"); None of other files."""

    def read(path: Path) -> Reader | None:
        rows = _rows_of(path)
        return None if rows is None else Reader(str(path), "line", fields, _chosen(rows, fields))

    return read


def corpus_files(folder: Path) -> dict[str, list[str]]:
    """Patterns of the files with texts of a corpus in `folder`, by split; {} if it has none of the layouts.

    Splits have the names of their folders, or of the files of Common Voice.
    """
    by_split: dict[str, list[str]] = {}
    files = visible_files(folder)
    common_voice = {split: folder / f"{name}.tsv" for name, split in COMMON_VOICE.items()}
    if (folder / "clips").is_dir() and common_voice["train"].is_file():
        return {split: [glob.escape(str(file))] for split, file in common_voice.items() if file.is_file()}
    for file in files:
        above = file.relative_to(folder).parts[:-1]
        split, pattern = split_of(above) or "train", glob.escape(str(file))
        if file.name.endswith(LIBRISPEECH):  # one for each chapter
            part = next((place for place, name in enumerate(above, 1) if split_of([name])), 0)
            pattern = f"{glob.escape(str(folder.joinpath(*above[:part])))}/**/*{LIBRISPEECH}"
        elif not _is_kaldi(file) and not _is_ljspeech(file):
            continue
        by_split[split] = list(dict.fromkeys([*by_split.get(split, []), pattern]))
    return by_split


def _rows_of(path: Path) -> Iterator[tuple[int, Values | Fault]] | None:
    if path.name.endswith(LIBRISPEECH):
        return _librispeech(path)
    if _is_kaldi(path):
        return _kaldi(path)
    if _is_ljspeech(path):
        return _ljspeech(path)
    if path.suffix == ".tsv" and (path.parent / "clips").is_dir():
        return _common_voice(path)
    return None


def _chosen(rows: Iterator[tuple[int, Values | Fault]], fields: list[str]) -> Iterator[Item]:
    for number, row in rows:
        yield number, row if isinstance(row, Fault) else [row.get(name) for name in fields]


def _lines(path: Path) -> Iterator[tuple[int, str | Fault]]:
    for number, raw in raw_lines(path):
        try:
            if line := decode(raw).rstrip("\r\n"):
                yield number, line
        except Fault as fault:
            yield number, fault


def _librispeech(path: Path) -> Iterator[tuple[int, Values | Fault]]:
    """SPEAKER-CHAPTER-UTTERANCE TEXT, the flac files beside it."""
    for number, line in _lines(path):
        if isinstance(line, Fault):
            yield number, line
            continue
        name, _, text = line.partition(" ")
        yield number, {"audio": f"{name}.flac", "text": text, "speaker": name.partition("-")[0]}


def _is_ljspeech(path: Path) -> bool:
    return path.name == LJSPEECH and (path.parent / "wavs").is_dir() and "|" in next(_texts(path), "")


def _texts(path: Path) -> Iterator[str]:
    return (line for _, line in _lines(path) if isinstance(line, str))


def _ljspeech(path: Path) -> Iterator[tuple[int, Values | Fault]]:
    """ID|TEXT|TEXT WITH NUMBERS AS WORDS, wavs/ID.wav (or .flac)."""
    audio = {file.stem: file for file in (path.parent / "wavs").iterdir()}
    for number, line in _lines(path):
        if isinstance(line, Fault):
            yield number, line
            continue
        name, *texts = line.split("|")
        if len(texts) not in (1, 2):
            yield number, Fault(f"{len(texts) + 1} fields, expected 2 or 3 separated by |: id, text, normalised text")
        elif name not in audio:
            yield number, Fault(f"there is no file {path.parent / 'wavs' / name}.wav, nor one of another ending")
        else:
            yield number, {"audio": f"wavs/{audio[name].name}", "text": texts[-1], "speaker": None}


def _common_voice(path: Path) -> Iterator[tuple[int, Values | Fault]]:
    """A tsv with the columns client_id, path, sentence; the files are in clips/."""
    header: list[str] = []
    for number, line in _lines(path):
        if isinstance(line, Fault):
            yield number, line
            continue
        cells = next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE))
        if not header:
            header = cells
            if missing := {"client_id", "path", "sentence"} - {*header}:
                raise ValueError(f"{path}, line {number}: no column {', '.join(sorted(missing))} of Common Voice")
            continue
        if len(cells) != len(header):
            yield number, Fault(f"{len(cells)} fields, but the first line names {len(header)}")
            continue
        row = dict(zip(header, cells, strict=True))
        yield number, {"audio": f"clips/{row['path']}", "text": row["sentence"], "speaker": row["client_id"]}


def _is_kaldi(path: Path) -> bool:
    return path.name == "text" and (path.parent / KALDI).is_file()


def _kaldi(path: Path) -> Iterator[tuple[int, Values | Fault]]:
    """UTTERANCE TEXT, with wav.scp (RECORDING PATH), segments (UTTERANCE RECORDING START END) and utt2spk."""
    places = dict(_pairs(path.parent / KALDI))
    segments = {name: rest.split() for name, rest in _pairs(path.parent / "segments")}
    speakers = dict(_pairs(path.parent / "utt2spk"))
    for number, line in _lines(path):
        if isinstance(line, Fault):
            yield number, line
            continue
        name, _, text = line.partition(" ")
        segment = segments.get(name, [name, None, None])
        place = places.get(segment[0] or "")
        if segments and name not in segments:
            yield number, Fault(f"utterance {name} is not in segments")
        elif len(segment) != 3:
            yield number, Fault(f"segments has {len(segment) + 1} fields for {name}, expected 4")
        elif place is None:
            yield number, Fault(f"recording {segment[0]} is not in wav.scp")
        elif place.rstrip().endswith("|"):
            yield (
                number,
                Fault(f"wav.scp names a command for {segment[0]}, which is not run: write its audio to a file"),
            )
        else:
            start, end = segment[1:]
            yield number, {"audio": place, "start": start, "end": end, "text": text, "speaker": speakers.get(name)}


def _pairs(path: Path) -> list[tuple[str, str]]:
    """(first word, rest) of each line; [] if there is no such file."""
    if not path.is_file():
        return []
    pairs = []
    for number, line in _lines(path):
        if isinstance(line, Fault):
            raise ValueError(f"{path}, line {number}: {line}")
        name, _, rest = line.partition(" ")
        pairs.append((name, rest.strip()))
    return pairs
