"""Rows of speech: every layout gives the same rows, and what cannot be used is named with its line."""

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from hftrain.audio import SpeechConfig, load_speech

pytestmark = pytest.mark.unit

RATE = 8000
TEXTS = [f"text number {number}" for number in range(12)]


def wave(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.uniform(-0.5, 0.5, RATE // 4 + 50 * number).astype(np.float32)


def write(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave(number), RATE)
    return path


def lines(path: Path, rows: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def librispeech(folder: Path) -> str:
    for split, numbers in (("train-clean-100", range(8)), ("dev-clean", range(8, 10)), ("test-clean", range(10, 12))):
        for number in numbers:
            write(folder / split / f"{number}" / "7" / f"{number}-7-0000.flac", number)
            lines(folder / split / f"{number}" / "7" / f"{number}-7.trans.txt", [f"{number}-7-0000 {TEXTS[number]}"])
    lines(folder / "SPEAKERS.TXT", ["about the speakers"])
    return str(folder)


def ljspeech(folder: Path) -> str:
    for number in range(12):
        write(folder / "wavs" / f"LJ{number:03}.wav", number)
    lines(folder / "metadata.csv", [f"LJ{number:03}|No. {number}|{TEXTS[number]}" for number in range(12)])
    return str(folder)


def common_voice(folder: Path) -> str:
    for name, numbers in (("train", range(8)), ("dev", range(8, 10)), ("test", range(10, 12))):
        rows = ["client_id\tpath\tsentence\tup_votes"]
        for number in numbers:
            write(folder / "clips" / f"{number}.mp3", number)
            rows.append(f"{number}\t{number}.mp3\t{TEXTS[number]}\t2")
        lines(folder / f"{name}.tsv", rows)
    return str(folder)


def kaldi(folder: Path) -> str:
    for split, numbers in (("train", range(8)), ("dev", range(8, 10)), ("test", range(10, 12))):
        place = folder / split
        whole = np.concatenate([wave(number) for number in numbers])
        place.mkdir(parents=True)
        soundfile.write(place / "all.wav", whole, RATE)
        lines(place / "wav.scp", [f"all {place / 'all.wav'}"])
        ends = np.cumsum([len(wave(number)) for number in numbers]) / RATE
        starts = [0.0, *ends[:-1]]
        lines(place / "segments", [f"u{n} all {a} {b}" for n, a, b in zip(numbers, starts, ends, strict=True)])
        lines(place / "text", [f"u{number} {TEXTS[number]}" for number in numbers])
        lines(place / "utt2spk", [f"u{number} {number}" for number in numbers])
    return str(folder)


def jsonl(folder: Path) -> str:
    for split, numbers in (("train", range(8)), ("validation", range(8, 10)), ("test", range(10, 12))):
        rows = [{"audio": write(folder / f"{n}.wav", n).name, "text": TEXTS[n]} for n in numbers]
        lines(folder / f"{split}.jsonl", list(map(json.dumps, rows)))
    return str(folder)


def parquet(folder: Path) -> str:
    for split, numbers in (("train", range(8)), ("validation", range(8, 10)), ("test", range(10, 12))):
        audio = [{"bytes": write(folder / "apart" / f"{n}.wav", n).read_bytes(), "path": None} for n in numbers]
        (folder / "rows").mkdir(exist_ok=True)
        pq.write_table(
            pa.table({"audio": audio, "text": TEXTS[numbers[0] : numbers[-1] + 1]}), folder / f"rows/{split}.parquet"
        )
    return str(folder / "rows")


@pytest.mark.parametrize("layout", [librispeech, ljspeech, common_voice, kaldi, jsonl, parquet])
def test_every_layout_gives_the_same_rows(tmp_path, layout):
    rows = load_speech(SpeechConfig(dataset_name=layout(tmp_path / "corpus"), validation_split=2, test_split=2), 42)
    assert {name: len(split) for name, split in rows.items()} == {"train": 8, "validation": 2, "test": 2}
    for split in rows.values():
        for row in split:
            number = int(row["text"].rpartition(" ")[2])
            assert row["seconds"] == pytest.approx(
                len(wave(number)) / RATE, rel=0.5 if layout is common_voice else 1e-6
            )
            if layout in (librispeech, common_voice, kaldi):
                assert row["speaker"] == str(number)
    if layout is not ljspeech:
        assert list(rows["test"]["text"]) == TEXTS[10:]


def refused(folder: Path, rows: list[dict], **settings) -> str:
    """The message that names bad rows."""
    file = lines(folder / "rows.jsonl", list(map(json.dumps, rows)))
    with pytest.raises(ValueError) as caught:
        load_speech(SpeechConfig(dataset_name=None, train_file=[str(file)], **settings), 42)
    return str(caught.value)


def test_each_kind_of_bad_row_is_named_with_its_line(tmp_path):
    good = write(tmp_path / "good.wav", 0).name
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    (tmp_path / "broken.wav").write_bytes((tmp_path / good).read_bytes()[:1000])
    rows = [
        {"audio": good, "text": "one"},
        {"audio": "silent.wav", "text": "two"},
        {"audio": "broken.wav", "text": "three"},
        {"audio": "absent.wav", "text": "four"},
        {"audio": write(tmp_path / "b.wav", 2).name, "text": "  "},
        {"audio": "https://example.org/a.wav", "text": "six"},
        {"audio": good, "text": "another text"},
    ]
    message = refused(tmp_path, rows)
    for number, reason in (
        (2, "silent.wav: silent: no sample above 0.0001"),
        (3, "broken.wav: truncated: "),
        (4, "absent.wav: there is no file"),
        (5, "column 'text' is empty"),
        (6, "column 'audio' is a URL"),
        (7, "good.wav is the same recording as"),
    ):
        assert any(f"line {number}:" in line and reason in line for line in message.splitlines()), (number, message)


def test_bad_rows_are_left_out_if_that_many_are_allowed(tmp_path):
    rows = [{"audio": write(tmp_path / f"{n}.wav", n).name, "text": TEXTS[n]} for n in range(8)]
    file = lines(tmp_path / "rows.jsonl", [json.dumps(row) for row in [*rows, {"audio": "absent.wav", "text": "x"}]])
    sizes = {"validation_split": 2, "test_split": 2}
    loaded = load_speech(SpeechConfig(dataset_name=None, train_file=[str(file)], max_bad_rows=1, **sizes), 42)
    assert sum(map(len, loaded.values())) == 8 and len(loaded["train"].bad) == 1


def test_spans_of_columns_are_read_and_checked(tmp_path):
    write(tmp_path / "a.wav", 3)
    rows = [{"audio": "a.wav", "text": f"t{i}", "from": i / 10, "to": i / 10 + 0.1} for i in range(2)]
    message = refused(
        tmp_path,
        [*rows, {"audio": "a.wav", "text": "x", "from": "soon", "to": 1}],
        start_column="from",
        end_column="to",
    )
    assert "line 3: column 'from' is 'soon', not a number of seconds" in message


def test_a_recording_of_two_splits_is_a_leak(tmp_path, caplog):
    for split, numbers in (("train", range(6)), ("validation", (6, 7)), ("test", (8, 0))):
        rows = [{"audio": write(tmp_path / f"{split}{n}.wav", n).name, "text": TEXTS[n]} for n in numbers]
        lines(tmp_path / f"{split}.jsonl", list(map(json.dumps, rows)))
    with caplog.at_level(logging.WARNING):
        rows = load_speech(SpeechConfig(dataset_name=str(tmp_path)), 42)
    assert rows["test"].leaks is not None and rows["test"].leaks.rows == 1
    assert "test0.wav of test is the audio" in caplog.text and "train0.wav of train" in caplog.text


def test_a_folder_without_texts_is_refused(tmp_path):
    write(tmp_path / "a.wav", 0)
    with pytest.raises(ValueError, match="has recordings but no texts"):
        load_speech(SpeechConfig(dataset_name=str(tmp_path)), 42)
