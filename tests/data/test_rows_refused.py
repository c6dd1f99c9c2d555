"""Rows and files that cannot be used: each fault names its file, its line and its reason."""

import gzip
import logging
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest

from hftrain.data.rows import load_rows
from hftrain.data.sources import is_hub_name
from tests.data.test_rows import PAIR, write

GOOD = '{"source": "a", "target": "b"}\n'

# name of the file -> content whose only fault is one row, the line of that row, the reason
BAD_ROWS = {
    "utf8.jsonl": (
        GOOD.encode() + b'{"source": "caf\xe9", "target": "b"}\n',
        2,
        "invalid UTF-8: byte 0xe9 at byte 16 of the line",
    ),
    "utf8.json": (
        b'[{"source": "a", "target": "b"},\n{"source":\n"\xff", "target": "b"}]',
        2,
        "invalid UTF-8: byte 0xff at byte 2",
    ),
    "utf8.csv": (b"source,target\na,b\nc,\xff\n", 3, "invalid UTF-8: byte 0xff at byte 3 of the line"),
    "utf8.tsv": (b"source\ttarget\na\tb\nc\t\xff\n", 3, "invalid UTF-8: byte 0xff at byte 3 of the line"),
    "utf8.txt": (b"a\tb\nc\t\xff\n", 2, "invalid UTF-8: byte 0xff at byte 3 of the line"),
    "missing.jsonl": (
        GOOD + '{"source": "a", "targe": "b"}\n',
        2,
        "no column 'target'; there are 'source', 'targe'; did you mean 'targe'?",
    ),
    "missing.json": (
        '[{"source": "a", "target": "b"},\n\n {"source": "a"}]',
        3,
        "no column 'target'; there are 'source'",
    ),
    "null.jsonl": (GOOD + "\n" + '{"source": null, "target": "b"}\n', 3, "column 'source' is null"),
    "empty.jsonl": ('{"source": "a", "target": ""}\n' + GOOD, 1, "column 'target' is empty"),
    "blank.csv": ("source,target\na,b\nc, \n", 3, "column 'target' is empty"),
    "empty.tsv": ("source\ttarget\na\tb\n\tc\n", 3, "column 'source' is empty"),
    "empty.txt": ("a\tb\n\tc\n", 2, "field 1 (source) is empty"),
    "number.jsonl": (GOOD + '{"source": 17, "target": "b"}\n', 2, "column 'source' is not text but int: 17"),
    "list.json": (
        '[{"source": "a", "target": ["b"]},\n{"source": "a", "target": "b"}]',
        1,
        "column 'target' is not text but list: ['b']",
    ),
    "object.jsonl": (GOOD + '["a", "b"]\n', 2, "not an object with columns but list: ['a', 'b']"),
    "surrogate.jsonl": (GOOD + '{"source": "\\ud83c", "target": "b"}\n', 2, "half a surrogate pair"),
    "truncated.jsonl": (GOOD + '{"source": "a", "tar', 2, "not valid JSON: Unterminated string"),
    "truncated.json": (
        '[{"source": "a", "target": "b"},\n{"source": "a", "tar',
        2,
        "truncated JSON: the file ends inside the array",
    ),
    "truncated2.json": (
        '[{"source": "a", "target": "b"},\n{"source": "a",\n',
        2,
        "truncated JSON: the file ends inside the array",
    ),
    "unclosed.json": ('[{"source": "a", "target": "b"}\n', 2, "truncated JSON: the file ends inside the array"),
    "fields.csv": ('source,target\n"a\n1",b\nc,d,e\n', 4, "3 fields, but the first line names 2: source, target"),
    "fields.tsv": ("source\ttarget\na\tb\nc\n", 3, "1 fields, but the first line names 2: source, target"),
    "fields.txt": ("a\tb\nc\n", 2, "1 fields, expected 2 separated by a TAB (source, target)"),
    "quote.csv": ('source,target\na,b\n"c" d,e\n', 3, "not valid CSV: ',' expected after '\"'"),
    "unclosed.csv": ('source,target\na,b\n"c,e\n', 3, "not valid CSV: unexpected end of data"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_and_can_be_let_go(tmp_path, name, caplog):
    content, line, reason = BAD_ROWS[name]
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError) as error:
        load_rows(path, columns=PAIR)
    assert f"{path}, line {line}: " in str(error.value)
    assert reason in str(error.value)
    assert "max_bad_rows" in str(error.value)

    with caplog.at_level(logging.WARNING):
        rows = load_rows(path, columns=PAIR, max_bad_rows=1)
    assert len(rows) == 1
    [bad] = rows.bad
    assert (bad.file, bad.place) == (str(path), f"line {line}")
    assert reason in bad.reason
    assert f"left out: {bad}" in caplog.text


def test_bad_rows_of_columnar_files(tmp_path):
    path = tmp_path / "rows.parquet"
    values = pa.array([b"a", b"b\xff", None, b"", b"c"], pa.binary()).view(pa.string())
    pa.parquet.write_table(pa.table({"source": values}), path)
    with pytest.raises(ValueError) as error:
        load_rows(path, columns={"source": "source"}, max_bad_rows=2)
    assert f"{path}, row 2: column 'source': invalid UTF-8: byte 0xff at byte 2" in str(error.value)
    assert f"{path}, row 3: column 'source' is null" in str(error.value)
    assert f"{path}, row 4: column 'source' is empty" in str(error.value)
    rows = load_rows(path, columns={"source": "source"}, max_bad_rows=3)
    assert rows["source"][:] == ["a", "c"]
    pa.parquet.write_table(pa.table({"source": [1, 2]}), path)
    with pytest.raises(ValueError, match="row 1: column 'source' is not text but int: 1"):
        load_rows(path, columns={"source": "source"})


def test_the_first_ten_are_listed(tmp_path):
    path = write(tmp_path / "rows.jsonl", GOOD + '{"source": ""}\n' * 19 + '{"source": null}\n')
    with pytest.raises(ValueError) as error:
        load_rows(path, columns={"source": "source"}, max_bad_rows=19)
    listed = [line for line in str(error.value).splitlines() if line.startswith("  ")]
    assert [line.split(", ")[1].split(":")[0] for line in listed] == [f"line {number}" for number in range(2, 12)]
    assert len(load_rows(path, columns={"source": "source"}, max_bad_rows=20)) == 1
    with pytest.raises(
        ValueError, match=r"line 2: column 'source' is empty\n  and the same: line 3, .*, line 11\n"
    ):  # said once
        load_rows(path, columns={"source": "source"})


def test_a_file_mistyped_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    write(tmp_path / "train.conll", GOOD)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no file train.conl; did you mean 'train.conll'\?"):
        load_rows("train.conl", columns={"source": "source"})
    assert is_hub_name("somebody/train.conl-2.0") and is_hub_name("squad") and not is_hub_name("train.conll2")


# Faults of the whole file fail, however many bad rows are allowed.
BAD_FILES = {
    "empty.jsonl": ("", "is empty: no rows in it"),
    "empty.json": ("[]", "is empty: no rows in it"),
    "empty.csv": ("", "is empty: no rows in it"),
    "header.csv": ("source,target\n", "is empty: no rows in it"),
    "empty.txt": ("", "is empty: no rows in it"),
    "allbad.txt": ("a\nb\n", "is empty: no rows in it but 2 bad ones"),
    "columns.csv": ("src,tagret\na,b\n", "line 1: no column 'source'; there are 'src', 'tagret'"),
    "near.tsv": (
        "source\ttagret\na\tb\n",
        "line 1: no column 'target'; there are 'source', 'tagret'; did you mean 'tagret'?",
    ),
    "twice.csv": ("source,target,source\na,b,c\n", "line 1: column 'source' occurs twice"),
    "syntax.json": (
        '[{"source": "a", "target": "b"},\n{"source" "a"},\n{"source": "a", "target": "b"}]',
        "line 2: not valid JSON",
    ),
    "comma.json": (
        '[{"source": "a", "target": "b"}\n{"source": "a", "target": "b"}]',
        "line 2: not valid JSON: '{' where , or ] should be",
    ),
    "after.json": (
        '[{"source": "a", "target": "b"}]\nx',
        "line 2: not valid JSON: 'x' where the end of the file should be",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_fails(tmp_path, name):
    content, reason = BAD_FILES[name]
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError) as error:
        load_rows(path, columns=PAIR, max_bad_rows=100)
    assert str(path) in str(error.value)
    assert reason in str(error.value)


def test_damaged_files(tmp_path):
    whole = gzip.compress("".join(f"{number}\t{number * number}\n" for number in range(9_999)).encode())
    path = tmp_path / "rows.txt.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"rows\.txt\.gz, after line \d+: the compressed file is damaged or truncated"):
        load_rows(path, columns=PAIR, max_bad_rows=100)
    path.write_bytes(b"a\tb\n")
    with pytest.raises(ValueError, match=r"rows\.txt\.gz is not a gz file: it is damaged, or not compressed"):
        load_rows(path, columns=PAIR)
    for name in ("rows.parquet", "rows.arrow"):
        path = write(tmp_path / name, "PAR1 or something like it")
        with pytest.raises(ValueError, match=rf"{name}, after row 0: not a readable Arrow or Parquet file"):
            load_rows(path, columns=PAIR)


def test_missing_sources(tmp_path):
    write(tmp_path / "train.jsonl", GOOD)
    with pytest.raises(ValueError, match=r"no file .*trian\.jsonl; did you mean 'train\.jsonl'\?"):
        load_rows(tmp_path / "trian.jsonl", columns=PAIR)
    code = (
        "from hftrain.data.rows import load_rows\n"
        "try: load_rows('nobody/no-such-data', columns={'source': 'source'})\n"
        "except ValueError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "'nobody/no-such-data' is not a local file or folder and could not be loaded from the Hub" in run.stdout
    assert "HF_HUB_OFFLINE=1 ends the wait" in run.stdout


def test_wrong_arguments(tmp_path):
    path = write(tmp_path / "rows.jsonl", GOOD)
    with pytest.raises(ValueError, match="at least one column"):
        load_rows(path, columns={})
    with pytest.raises(ValueError, match="max_bad_rows must not be negative, got -1"):
        load_rows(path, columns=PAIR, max_bad_rows=-1)
