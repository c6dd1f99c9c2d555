"""Rows: every source gives the same rows; every fault names its file, its line and its reason."""

import gzip
import json
import logging
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from hftrain.data.cut import split_rows
from hftrain.data.lines import Fault
from hftrain.data.rows import fingerprint, leaks, load_rows
from hftrain.data.sources import is_hub_name
from hftrain.data.unread import Unread

PAIR = {"source": "source", "target": "target"}
ROWS = [
    {"source": "Hello, world", "target": 'Hallo "Welt"'},
    {"source": "a\u2028b\x0cc", "target": "ä 🎈 d"},  # neither character ends a line
    {"source": "x" * 70_000, "target": "y"},
]


def lines_of(columns, separator, quote=lambda text: text):
    return "".join(separator.join(quote(text) for text in row) + "\n" for row in columns)


def write(path, content):
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def csv_text(rows):
    return lines_of(
        [rows[0].keys(), *(row.values() for row in rows)], ",", lambda text: '"' + text.replace('"', '""') + '"'
    )


def jsonl_text(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


TEXTS = {
    "rows.jsonl": jsonl_text(ROWS),
    "lines.json": "\n" + jsonl_text(ROWS),
    "compact.json": json.dumps(ROWS),
    "pretty.json": json.dumps(ROWS, indent=2),
    "rows.csv": csv_text(ROWS),
    "rows.tsv": lines_of([PAIR, *(row.values() for row in ROWS)], "\t"),
    "rows.txt": lines_of((row.values() for row in ROWS), "\t"),
}


@pytest.mark.parametrize("dressed", ["plain", "crlf", "bom", "gz", "no last line end"])
@pytest.mark.parametrize("name", TEXTS)
def test_text_formats(tmp_path, name, dressed):
    text = {
        "crlf": TEXTS[name].replace("\n", "\r\n"),
        "bom": "\ufeff" + TEXTS[name],
        "no last line end": TEXTS[name].rstrip("\n"),
    }.get(dressed, TEXTS[name])
    path = write(tmp_path / (name + ".gz" * (dressed == "gz")), text)
    rows = load_rows(path, columns=PAIR)
    assert list(rows) == ROWS
    assert rows.bad == []


@pytest.mark.parametrize("name", ["rows.jsonl", "array.json", "under.json", "rows.csv", "rows.tsv", "rows.parquet"])
def test_columns_that_nothing_reads_are_counted_in_every_format(tmp_path, name, caplog):
    rows = [{"source": "a", "target": "b", "note": "c", "empty": ""}, {"source": "d", "target": "e", "note": "f"}]
    table = [["source", "target", "note", "empty"], ["a", "b", "c", ""], ["d", "e", "f", ""]]
    path = tmp_path / name
    if path.suffix == ".parquet":
        columns = {"source": ["a", "d"], "target": ["b", "e"]}
        pyarrow.parquet.write_table(pa.table({**columns, "note": ["c", "f"], "empty": [None, None]}), path)
    texts = {"rows.jsonl": jsonl_text(rows), "array.json": json.dumps(rows), "under.json": json.dumps({"data": rows})}
    texts |= {"rows.csv": lines_of(table, ","), "rows.tsv": lines_of(table, "\t")}
    if name in texts:
        write(path, texts[name])
    unread = Unread()
    load_rows(path, columns=PAIR, unread=unread)
    assert dict(unread) == {"note": 2}
    unread.warn("source_column says what is read")
    assert f"columns that are not read: note (2 rows) in {path}. source_column says" in caplog.text


def test_a_column_is_read_where_a_part_of_it_is(tmp_path):
    path = write(tmp_path / "rows.jsonl", jsonl_text([{"pair": {"de": "a", "en": "b", "fr": "c"}, "id": 0}] * 3))
    unread = Unread()
    load_rows(path, columns={"source": "pair.de", "target": "pair.en"}, unread=unread)
    assert dict(unread) == {"id": 3}


def test_columnar_files_and_folders(tmp_path):
    table = pa.Table.from_pylist(ROWS).append_column("label", pa.array([1, 2, 3]))
    pa.parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as file:
        file.write_table(table)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as stream:
        stream.write_table(table)
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=saved.select([0]), test=saved).save_to_disk(tmp_path / "several")
    for name in ("rows.parquet", "file.arrow", "stream.arrow", "one"):
        assert list(load_rows(tmp_path / name, columns=PAIR)) == ROWS
    assert list(load_rows(tmp_path / "several", columns=PAIR, split="test")) == ROWS
    with pytest.raises(ValueError, match=r"several has the splits 'train', 'test': set dataset_name to it"):
        load_rows(tmp_path / "several", columns=PAIR)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="other has no data files"):
        load_rows(tmp_path / "other", columns=PAIR)


def test_arrow_types_of_text(tmp_path):
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        table = pa.table({"source": pa.array(["ä", "b", "ä"], pa.string()).cast(kind)})
        with pa.ipc.new_file(tmp_path / "rows.arrow", table.schema) as file:
            file.write_table(table)
        assert load_rows(tmp_path / "rows.arrow", columns={"source": "source"})["source"][:] == ["ä", "b", "ä"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "folder"])
def test_columns_inside_columns(tmp_path, name):
    nested = [{"id": 1, "translation": {"de": "eins", "en": "one"}}]
    if name == "folder":
        datasets.Dataset.from_list(nested).save_to_disk(tmp_path / name)
    elif name == "rows.parquet":
        pa.parquet.write_table(pa.Table.from_pylist(nested), tmp_path / name)
    else:
        write(tmp_path / name, json.dumps(nested) if name == "rows.json" else jsonl_text(nested))
    rows = load_rows(tmp_path / name, columns={"source": "translation.de", "target": "translation.en"})
    assert list(rows) == [{"source": "eins", "target": "one"}]
    with pytest.raises(
        ValueError, match=r"no column 'translation.ed'.*'translation.de', 'translation.en'; did you mean"
    ):
        load_rows(tmp_path / name, columns={"source": "translation.ed"})


def test_aligned_files(tmp_path):
    write(tmp_path / "train.de", "eins\nzwei\n")
    write(tmp_path / "train.en", "one\ntwo\n")
    pattern = tmp_path / "train.{lang}"
    rows = load_rows(pattern, columns=PAIR, languages=("de", "en"))
    assert list(rows) == [{"source": "eins", "target": "one"}, {"source": "zwei", "target": "two"}]
    with pytest.raises(ValueError, match=r"\{lang\} needs 2 languages .*set source_lang and target_lang"):
        load_rows(pattern, columns=PAIR)
    with pytest.raises(ValueError, match=r"no file .*train\.fr; did you mean 'train\.en'"):
        load_rows(pattern, columns=PAIR, languages=("fr", "en"))
    write(tmp_path / "train.en", "one\ntwo\nthree\nfour\n")
    with pytest.raises(ValueError, match=r"train\.de has 2 lines, .*train\.en has 4 lines"):
        load_rows(pattern, columns=PAIR, languages=("de", "en"))
    write(tmp_path / "train.en", b"one\nt\xfco\n")
    with pytest.raises(
        ValueError, match=r"train\.\{lang\}, line 2: train\.en: invalid UTF-8: byte 0xfc at byte 2 .*\nSet encoding"
    ):
        load_rows(pattern, columns=PAIR, languages=("de", "en"))
    write(tmp_path / "train.en", "one\n\n")
    with pytest.raises(ValueError, match=r"line 2: train\.en is empty"):
        load_rows(pattern, columns=PAIR, languages=("de", "en"))


def test_one_column_of_text(tmp_path):
    path = write(tmp_path / "rows.txt", "a\tb\nc\n")
    assert load_rows(path, columns={"text": "text"})["text"][:] == ["a\tb", "c"]


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


def test_wrong_arguments(tmp_path):
    path = write(tmp_path / "rows.jsonl", GOOD)
    with pytest.raises(ValueError, match="at least one column"):
        load_rows(path, columns={})
    with pytest.raises(ValueError, match="max_bad_rows must not be negative, got -1"):
        load_rows(path, columns=PAIR, max_bad_rows=-1)


def test_fingerprint_is_of_the_content(tmp_path):
    many = [{"source": f"{number}", "target": "ä" * (number % 7 + 1)} for number in range(12_000)]
    rows = load_rows(write(tmp_path / "a.jsonl", jsonl_text(many)), columns=PAIR)
    same = load_rows(write(tmp_path / "b.csv.gz", csv_text(many)), columns=PAIR)
    assert rows.fingerprint == fingerprint(rows) == fingerprint(same)
    assert fingerprint(rows.select(range(12_000))) == fingerprint(datasets.Dataset.from_list(many)) == fingerprint(rows)
    changed = [dict(row) for row in many]
    changed[-1]["target"] += "b"
    moved = [{"source": "ab", "target": "c"}], [{"source": "a", "target": "bc"}], [{"target": "ab", "source": "c"}]
    others = [changed, many[::-1], many[:-1], *moved]
    assert len({fingerprint(datasets.Dataset.from_list(other)) for other in others} | {fingerprint(rows)}) == 7


def pairs_of(rows):
    return set(zip(rows["source"], rows["target"], strict=True))


def test_split_is_seeded_and_disjoint():
    rows = datasets.Dataset.from_list([{"source": f"{i % 800}", "target": f"{i % 1600}"} for i in range(2_000)])
    parts = split_rows(rows, 0.1, 150, seed=1)
    assert list(parts) == ["train", "validation", "test"]
    assert sum(map(len, parts.values())) == 2_000
    assert (len(parts["validation"]), len(parts["test"])) == (200, 150)
    sources = [set(part["source"]) for part in parts.values()]
    assert not (sources[0] & sources[1] or sources[0] & sources[2] or sources[1] & sources[2])
    again, other = split_rows(rows, 0.1, 150, seed=1), split_rows(rows, 0.1, 150, seed=2)
    assert all(list(parts[name]) == list(again[name]) for name in parts)
    assert pairs_of(parts["test"]) != pairs_of(other["test"])
    # blind to the order of the rows: what is added or moved elsewhere moves nothing
    backwards = split_rows(rows.select(range(1_999, -1, -1)), 0.1, 150, seed=1)
    assert pairs_of(parts["test"]) == pairs_of(backwards["test"])
    assert leaks(parts["train"], parts["test"])[:2] == (0, 0)


def test_split_is_the_same_on_every_platform():
    rows = datasets.Dataset.from_list([{"source": f"row {number}"} for number in range(20)])
    assert split_rows(rows, 0, 4, seed=3)["test"]["source"][:] == ["row 0", "row 12", "row 13", "row 19"]


def test_split_refuses():
    rows = datasets.Dataset.from_list([{"source": f"{number}"} for number in range(10)])
    assert list(split_rows(rows, 0, 0, seed=0)) == ["train"]
    assert len(split_rows(rows, 3, 0.2, seed=0)["train"]) == 5
    for validation, test, message in (
        (-1, 0, "validation_split must be a share under 1 or a whole number"),
        (1.5, 0, "validation_split must be a share under 1 or a whole number"),
        (0, 0.01, "test_split 0.01 of 10 rows is not one row"),
        (5, 5, "leave none of 10 rows to train on"),
    ):
        with pytest.raises(ValueError, match=message):
            split_rows(rows, validation, test, seed=0)
    with pytest.raises(ValueError, match="no column 'sorce'; there are 'source'; did you mean 'source'"):
        split_rows(rows, 1, 1, seed=0, by="sorce")
    same = datasets.Dataset.from_list([{"source": "a"}] * 10)
    with pytest.raises(ValueError, match="rows with the same 'source' stay together, but each is in more than"):
        split_rows(same, 2, 0, seed=0)


def test_leaks():
    train = datasets.Dataset.from_dict({"source": ["a", "a", "b", "c"], "target": ["1", "2", "3", "4"]})
    test = datasets.Dataset.from_dict({"source": ["a", "b", "b", "d"], "target": ["2", "9", "3", "4"]})
    found = leaks(train, test)
    assert (found.rows, found.inputs) == (2, 3)
    assert found.examples[0] == {"source": "a", "target": "2"}


def test_rows_may_be_other_than_text_and_the_whole_record_can_be_asked_for(tmp_path):
    """`read` and `schema` are what a task gives for labels, lists and messages; "" names the whole row."""

    def read(values, names):
        record, words = values
        if not isinstance(words, list):
            raise Fault(f"{names[1]} is no list: {words!r}")
        return [words, len(record)]

    schema = pa.schema([("words", pa.list_(pa.string())), ("fields", pa.int64())])
    arguments = {"columns": {"record": "", "words": "w"}, "read": read, "schema": schema}
    file = tmp_path / "a.jsonl"
    file.write_text('{"w": ["a", "b"], "x": 1}\n{"w": "c"}\n')
    with pytest.raises(ValueError, match="line 2: column 'w' is no list: 'c'"):
        load_rows(file, **arguments)
    rows = load_rows(file, max_bad_rows=1, **arguments)
    assert list(rows) == [{"words": ["a", "b"], "fields": 2}]
    rows.data.to_parquet(tmp_path / "a.parquet")
    again = load_rows(tmp_path / "a.parquet", **arguments | {"columns": {"record": "", "words": "words"}})
    assert list(again) == list(rows)
    (tmp_path / "a.csv").write_text("w,x\n1,2\n")
    with pytest.raises(ValueError, match="line 2: column 'w' is no list: '1'"):
        load_rows(tmp_path / "a.csv", **arguments)
    train, test = rows, rows
    assert leaks(train, test, ["words"]).rows == 1  # lists are compared too


def test_a_reader_of_the_callers_own(tmp_path):
    (tmp_path / "a.words").write_text("x y")
    rows = load_rows(tmp_path / "a.words", columns={"word": "w"}, reader=lambda path: iter([(1, ["x"]), (1, ["y"])]))
    assert rows["word"][:] == ["x", "y"]
    with pytest.raises(ValueError, match=r"a\.words: the ending \.words is not known .*rename it"):
        load_rows(tmp_path / "a.words", columns={"word": "w"}, reader=lambda path: None)
