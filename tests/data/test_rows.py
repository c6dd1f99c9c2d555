"""Rows: every source gives the same rows; every fault names its file, its line and its reason."""

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from hftrain.data.cut import split_rows
from hftrain.data.lines import Fault
from hftrain.data.rows import fingerprint, leaks, load_rows
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
        (5, 5, "5 for test, 5 for validation leave none of 10 rows to train on: add rows, set test_file"),
    ):
        with pytest.raises(ValueError, match=message):
            split_rows(rows, validation, test, seed=0)
    with pytest.raises(ValueError, match="no column 'sorce'; there are 'source'; did you mean 'source'"):
        split_rows(rows, 1, 1, seed=0, by="sorce")
    same = datasets.Dataset.from_list([{"source": "a"}] * 10)
    with pytest.raises(ValueError, match="rows with the same 'source' stay together, but each is in more than"):
        split_rows(same, 2, 0, seed=0)
    with pytest.raises(ValueError, match="10 rows have only 1 different texts in column 'source': too few to hold out"):
        split_rows(same, None, None, seed=0, strata=["a"] * 10)


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
