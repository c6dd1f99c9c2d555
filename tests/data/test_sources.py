"""Files as people bring them: packed, sharded, in other dialects and encodings. Each is read right, or named."""

import bz2
import csv
import datetime
import gzip
import io
import json
import logging
import lzma
import tarfile
import zipfile
from decimal import Decimal

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from hftrain.config import ConfigError, DataConfig
from hftrain.data import splits
from hftrain.data.conll import read_conll
from hftrain.data.documents import open_source
from hftrain.data.files import cache, make_once
from hftrain.data.lines import Dialect
from hftrain.data.rows import load_rows
from hftrain.data.squad import read_squad
from hftrain.tasks.chat import load_chats

pytestmark = pytest.mark.unit

ROWS = [{"text": "Straße, the first", "label": "a"}, {"text": "two", "label": "b"}, {"text": "drei", "label": "a"}]
COLUMNS = {"text": "text", "label": "label"}
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in ROWS)


def zstd(content):
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as file:
        file.write(content)
    return packed.getvalue().to_pybytes()


def tar(content):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo("rows.jsonl")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zipped(content):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("rows.jsonl", content)
    return packed.getvalue()


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


@pytest.mark.parametrize("kind", PACK)
def test_packed_files_are_known_by_their_content(tmp_path, kind):
    packed = PACK[kind](LINES.encode())
    for name in (f"rows.jsonl.{kind}", "rows.jsonl"):  # with and without the ending
        (tmp_path / name).write_bytes(packed)
        assert list(load_rows(tmp_path / name, columns=COLUMNS)) == ROWS
    (tmp_path / "rows.jsonl").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"rows\.jsonl, after line \d: the compressed file is damaged or truncated"):
        load_rows(tmp_path / "rows.jsonl", columns=COLUMNS, max_bad_rows=99)
    (tmp_path / f"rows.csv.{kind}").write_bytes(CSV.encode())
    with pytest.raises(ValueError, match=rf"is not a {kind} file: .* drop \.{kind} from its name"):
        load_rows(tmp_path / f"rows.csv.{kind}", columns=COLUMNS)


@pytest.mark.parametrize("name", ["rows.JSONL", "rows.ndjson", "rows.jsonlines", "ROWS.CSV", "rows.Jsonl.GZ"])
def test_endings_without_case_and_other_names_of_json_lines(tmp_path, name):
    content = (CSV if "CSV" in name else LINES).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if "GZ" in name else content)
    assert list(load_rows(tmp_path / name, columns=COLUMNS)) == ROWS
    assert list(open_source(str(tmp_path / name))) == [row["text"] for row in ROWS]


NOT_DATA = {
    "rows.dat": (LINES, "the ending .dat is not known"),
    "rows": (LINES, "the name has no ending"),
    "book.xls": (zipped(b"x"), "the ending .xls is not known .*: save its sheet as .xlsx or .csv"),
    "book.xlsx": (zipped(b"x"), "book.xlsx is not a readable Excel workbook: .*Save its sheet as .csv"),
    "torn.xlsx": (b"PK\x03\x04", "torn.xlsx is not a readable Excel workbook"),
    "book.xlsx.gz": (gzip.compress(b"PK"), "a compressed xlsx file cannot be read: decompress it"),
    "rows.zip": (zipped(LINES), "the ending .zip is not known .*: unpack it"),
    "rows.jsonl": (zipped(LINES), "rows.jsonl is a zip archive or an Office file: unpack it"),
    "rows.jsonl.gz": (gzip.compress(tar(LINES.encode())), "rows.jsonl.gz is an archive: unpack it"),
    "rows.txt": (LINES, "rows.txt contains JSON but would be read as text: rename it to .jsonl"),
    "pretty.txt": (json.dumps(ROWS, indent=1), "pretty.txt contains JSON"),
    "paper.txt": (b"%PDF-1.7 text", "paper.txt is a PDF"),
    "mac.csv": (CSV.replace("\n", "\r"), "mac.csv: its lines end with CR only"),
    "utf16.txt": (CSV.encode("utf-16-le"), "utf16.txt is binary, not text .*set encoding utf-16-le"),
    "rows.parquet.gz": (gzip.compress(b"PAR1"), "a compressed parquet file cannot be read: decompress it"),
    "tabs.csv": (CSV.replace(",", "\t"), "line 1: only one column, 'text\\\\tlabel', which contains TABs: set delim"),
    "bars.csv": (CSV.replace(",", "|"), r"which contains bars: set delimiter to '\|'"),
    "commas.tsv": (CSV, "which contains commas: set delimiter to ','"),
    "twice.csv": ("text,label,text\na,b,c\n", "line 1: column 'text' occurs twice: rename one"),
}


@pytest.mark.parametrize("name", NOT_DATA)
def test_what_looks_like_data_and_is_not_is_named(tmp_path, name):
    content, message = NOT_DATA[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    for columns in (COLUMNS, {"row": ""}):
        with pytest.raises(ValueError, match=message):
            load_rows(tmp_path / name, columns=columns, max_bad_rows=99)
    with pytest.raises(ValueError, match=message):
        list(open_source(str(tmp_path / name)))


def test_json_is_no_words_and_tags(tmp_path):
    (tmp_path / "train.conll").write_text(LINES)
    with pytest.raises(ValueError, match=r"train.conll contains JSON"):
        list(read_conll(tmp_path / "train.conll"))


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_first_line_that_is_a_row(tmp_path, delimiter):
    path, rows = tmp_path / "a.csv", [["one, two", "1"], ["three", "4"]]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    config = DataConfig(train_file=str(path), delimiter=delimiter, column_names=["words", "number"])
    found = load_rows(path, columns={"n": "number", "w": "words"}, dialect=splits.dialect_of(config))
    assert [[row["w"], row["n"]] for row in found] == rows and found.places.bad(0, "").place == "line 1"
    with pytest.raises(ValueError, match="if it is a row, name them with column_names"):
        load_rows(
            path, columns={"w": "words"}, dialect=splits.dialect_of(DataConfig(train_file="a", delimiter=delimiter))
        )
    with pytest.raises(ValueError, match=r"no column 'word'; there are 'words', 'number'.* \(column_names\)"):
        load_rows(path, columns={"w": "word"}, dialect=splits.dialect_of(config))
    path.write_text(f"number{delimiter}words\n1{delimiter}a\n")
    with pytest.raises(ValueError, match="line 1 names the columns: do not set column_names"):
        load_rows(path, columns={"w": "words"}, dialect=splits.dialect_of(config))
    path.write_text(f"a{delimiter}b{delimiter}c\n")
    with pytest.raises(ValueError, match="3 fields, but column_names has 2: words, number"):
        load_rows(path, columns={"w": "words"}, dialect=splits.dialect_of(config))
    with pytest.raises(ConfigError, match="column_names: has 'a' twice"):
        DataConfig(train_file=str(path), column_names=["a", "a"])


def test_delimiters_and_encodings(tmp_path):
    semicolons = 'text;label\n"Straße, the first";a\ntwo;b\ndrei;a\n'
    (tmp_path / "rows.csv").write_bytes(semicolons.encode("windows-1252"))
    dialect = Dialect(";", "windows-1252")
    assert list(load_rows(tmp_path / "rows.csv", columns=COLUMNS, dialect=dialect)) == ROWS
    with pytest.raises(ValueError, match=r"line 2: invalid UTF-8: byte 0xdf(.|\n)*\nSet encoding to that of the file"):
        load_rows(tmp_path / "rows.csv", columns=COLUMNS, dialect=Dialect(";"))  # and no advice to drop the row
    with pytest.raises(ValueError, match=r"rows.csv, after line 0: not ascii: byte 0xdf .*set encoding"):
        load_rows(tmp_path / "rows.csv", columns=COLUMNS, dialect=Dialect(";", "ascii"))
    (tmp_path / "excel.csv").write_text("sep=;\r\n" + semicolons)
    assert list(load_rows(tmp_path / "excel.csv", columns=COLUMNS)) == ROWS
    (tmp_path / "excel.csv").write_text("sep=;\ntext;label\na;b\nc\n")
    with pytest.raises(ValueError, match=r"excel.csv, line 4: 1 fields, but the first line names 2"):
        load_rows(tmp_path / "excel.csv", columns=COLUMNS)
    for encoding in ("utf-16", "utf-32"):  # with a mark
        (tmp_path / "rows.jsonl").write_bytes(LINES.encode(encoding))
        assert list(load_rows(tmp_path / "rows.jsonl", columns=COLUMNS)) == ROWS
        (tmp_path / "rows.json").write_bytes(json.dumps(ROWS, indent=1).encode(encoding))
        assert list(load_rows(tmp_path / "rows.json", columns=COLUMNS)) == ROWS
    (tmp_path / "pairs.txt").write_bytes("grün|b\n".encode("latin-1"))
    pairs = load_rows(tmp_path / "pairs.txt", columns=COLUMNS, dialect=Dialect("|", "latin-1"))
    assert list(pairs) == [{"text": "grün", "label": "b"}]


def test_the_settings_of_a_dialect():
    config = DataConfig(train_file="x.csv", delimiter="\\t", encoding="UTF8")
    assert splits.dialect_of(config) == Dialect("\t", None)
    assert DataConfig(train_file="x.csv", delimiter="TAB", encoding="latin-1").delimiter == "\t"
    with pytest.raises(ConfigError, match=r"delimiter: must be one character"):
        DataConfig(train_file="x.csv", delimiter=";;")
    with pytest.raises(ConfigError, match=r"encoding: is unknown to Python: 'windows1252x'; try windows-1252"):
        DataConfig(train_file="x.csv", encoding="windows1252x")


def test_cells_are_as_long_as_they_are(tmp_path):
    long = "a word " * 30_000
    (tmp_path / "rows.csv").write_text(f'text,label\n"{long}",a\n')
    (tmp_path / "rows.tsv").write_text(f"text\tlabel\n{long}\ta\n")
    for name in ("rows.csv", "rows.tsv"):
        assert load_rows(tmp_path / name, columns=COLUMNS)["text"][:] == [long]


def write_shards(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pa.parquet.write_table(pa.table({"text": [f"{name} a", f"{name} b"], "label": ["x", "y"]}), folder / name)


def test_shards_of_a_pattern_and_a_folder(tmp_path, caplog):
    names = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    write_shards(tmp_path / "data", names)
    (tmp_path / "data" / "readme.md").write_text("# A data set")
    wanted = [f"{name} {end}" for name in names for end in "ab"]
    for source in (f"{tmp_path}/data/train-*.parquet", f"{tmp_path}/**/*.parquet", tmp_path / "data", tmp_path):
        assert load_rows(source, columns=COLUMNS)["text"][:] == wanted
        assert list(open_source(str(source))) == wanted
    assert "not read" not in caplog.text
    (tmp_path / "data" / "more.xml").write_text("<a/>")
    with pytest.raises(ValueError, match=r"no file matches .*/test-\*\.parquet"):
        load_rows(f"{tmp_path}/test-*.parquet", columns=COLUMNS)
    load_rows(tmp_path / "data", columns=COLUMNS)
    assert "data: 1 files are not read: more.xml" in caplog.text
    pa.parquet.write_table(pa.table({"text": ["good", None], "label": ["x", "y"]}), tmp_path / "data" / names[1])
    with pytest.raises(ValueError, match=r"train-00001-of-00002.parquet, row 2: column 'text' is null"):
        load_rows(tmp_path / "data", columns=COLUMNS)


def test_a_folder_with_splits_is_a_data_set(tmp_path, caplog):
    write_shards(tmp_path, ["train-0.parquet", "train-1.parquet", "dev.parquet", "test.parquet", "extra.parquet"])
    with pytest.raises(ValueError, match=r"has files of the splits test, train, validation: set dataset_name to it"):
        load_rows(tmp_path, columns=COLUMNS)
    with caplog.at_level(logging.WARNING):
        rows = splits.load_splits(DataConfig(dataset_name=str(tmp_path)), columns=COLUMNS)
    assert {name: split["text"][0] for name, split in rows.items()} == {
        "train": "train-0.parquet a", "validation": "dev.parquet a", "test": "test.parquet a",
    }  # fmt: skip
    assert "1 files are not read: extra.parquet" in caplog.text
    assert {name: str(split.split) for name, split in rows.items()} == {name: name for name in rows}  # for messages
    assert list(open_source(f"{tmp_path}:test")) == ["test.parquet a", "test.parquet b"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.csv").write_text(CSV)
    write_shards(tmp_path / "other", ["a.parquet"])
    with pytest.raises(ValueError, match=r"files of several kinds, .csv, .parquet: choose one kind with a pattern"):
        load_rows(tmp_path / "other", columns=COLUMNS)


def test_a_saved_data_set_stays_in_its_folder(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "mine" / "secret")
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "saved")
    state = tmp_path / "saved" / "train" / "state.json"
    good = json.loads(state.read_text())
    for name in ("../../mine/secret/data-00000-of-00001.arrow", f"{tmp_path}/mine/secret/data-00000-of-00001.arrow"):
        state.write_text(json.dumps(good | {"_data_files": [{"filename": name}]}))
        with pytest.raises(ValueError, match=r"saved/train names the file .*, which is outside of it and is not read"):
            load_rows(tmp_path / "saved", columns=COLUMNS)
    for damage in ("{}", "[", "[" * 100_000):
        state.write_text(damage)
        with pytest.raises(ValueError, match=r"state.json is damaged"):
            load_rows(tmp_path / "saved", columns=COLUMNS)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["../mine/secret"]}')
    with pytest.raises(ValueError, match=r"saved names the file '../mine/secret', which is outside of it"):
        splits.load_splits(DataConfig(dataset_name=str(tmp_path / "saved")), columns=COLUMNS)


def test_values_that_json_has_not(tmp_path):
    at = datetime.datetime(2026, 11, 28, 12, 30)
    turns = [{"role": "user", "content": "hi", "at": at}, {"role": "assistant", "content": "ho", "at": None}]
    pa.parquet.write_table(
        pa.table(
            {
                "label": pa.array([Decimal("2"), Decimal("1.5")], pa.decimal128(8, 2)),
                "messages": [turns, turns],
                "raw": pa.array([b"text", b"\xff"], pa.binary()),
                "map": pa.array([[("a", 1)], [("b", 2)]], pa.map_(pa.string(), pa.int64())),
            }
        ),
        tmp_path / "rows.parquet",
    )
    seen = []

    def read(values, names):
        seen.append(values[0])
        return ["x"]

    load_rows(tmp_path / "rows.parquet", columns={"row": ""}, read=read)
    assert [row["label"] for row in seen] == [2, 1.5] and isinstance(seen[0]["label"], int)
    assert seen[0]["messages"][0]["at"] == "2026-11-28T12:30:00"
    assert [row["raw"] for row in seen] == ["text", b"\xff"]
    assert seen[1]["map"] == {"b": 2}
    config = DataConfig(train_file=str(tmp_path / "rows.parquet"), validation_split=0, test_split=0)
    config.dataset_format, config.system_to_user = None, False  # of the chat recipe
    with pytest.raises(ValueError, match="no validation rows"):  # after the rows were read
        load_chats(config, 1)


def test_squad_and_rows_under_data(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps({"data": [{"question": "q", "context": "c"}]}))
    assert read_squad(tmp_path / "rows.json") is None  # rows, as `load_rows` reads them
    (tmp_path / "lines.json").write_text(LINES)
    assert read_squad(tmp_path / "lines.json") is None


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "datasets")
    for write in (lambda stage: None, lambda stage: (stage / "x" / "y").write_text("")):
        with pytest.raises(ValueError, match=r"the cache .*file/datasets/hftrain cannot be written .*: set HF_HOME or"):
            make_once(cache() / "thing", write)
    with pytest.raises(ValueError, match=r"out/thing cannot be written: No such file"):
        make_once(tmp_path / "out" / "thing", write)


def test_what_is_kept_is_made_again_where_it_is_damaged(tmp_path, caplog):
    made = []

    def make(stage):
        made.append(stage)
        (stage / "inside").mkdir()
        (stage / "inside" / "a.json").write_text("{}")

    folder = tmp_path / "thing"
    for _ in range(2):
        make_once(folder, make)
    assert len(made) == 1
    for damage, named in (
        (lambda: (folder / "inside" / "a.json").write_text("{"), "inside/a.json"),
        (lambda: (folder / "inside" / "a.json").unlink(), "inside/a.json"),
        (lambda: (folder / "sha256.json").write_text("["), "sha256.json"),
    ):
        caplog.clear()
        damage()
        make_once(folder, make)
        assert f"{folder} is damaged ({named}) and will be made again" in caplog.text
        assert (folder / "inside" / "a.json").read_text() == "{}"
    assert len(made) == 4


# ---- Excel workbooks

DATES = """<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>
<row r="1"><c t="inlineStr"><is><t>text</t></is></c></row>
<row r="2"><c s="1"><v>46354</v></c></row>
<row r="3"><c s="2"><v>46354.395833333336</v></c></row>
<row r="4"><c s="2"><v>0.5</v></c></row>
<row r="5"><c s="3"><v>46354</v></c></row>
</sheetData></worksheet>"""
STYLES = """<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">
<numFmts><numFmt numFmtId="164" formatCode="dd/mm hh:mm"/>
<numFmt numFmtId="165" formatCode="0.0&quot; days&quot;"/></numFmts>
<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="164"/><xf numFmtId="165"/></cellXfs></styleSheet>"""

SHEET = """<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>
<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c><c t="inlineStr"><is><t>stars</t></is></c></row>
<row r="2"><c r="A2" t="s"><v>2</v></c><c r="B2" t="str"><f>"a"</f><v>a</v></c><c r="C2"><v>3.0</v></c></row>
<row r="3"><c r="A3"/></row>
<row r="4"><c r="A4" t="inlineStr"><is><t>two</t></is></c><c r="C4"><v>0.10000000000000001</v></c></row>
<row r="5"><c r="A5" t="inlineStr"><is><t>drei</t></is></c><c r="B5" t="b"><v>1</v></c><c r="D5"><v>1</v></c></row>
</sheetData></worksheet>"""
TEXTS = """<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><si><t>text</t></si><si><t>label</t></si>
<si><r><t>Stra\u00dfe, </t></r><r><rPr><b/></rPr><t xml:space="preserve">the
first</t></r><rPh sb="0" eb="1"><t>not this</t></rPh></si></sst>"""
BOOK = """<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"
xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets>
<sheet name="Chart" sheetId="8" r:id="rId3"/>
<sheet name="Reviews" sheetId="7" r:id="rId2"/><sheet name="Notes" sheetId="2" r:id="rId1"/></sheets></workbook>"""
LINKS = """<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="rId3" Target="chartsheets/sheet1.xml"
Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/chartsheet"/>
<Relationship Id="rId1" Target="worksheets/sheet1.xml"/><Relationship Id="rId2" Target="worksheets/sheet9.xml"/>
</Relationships>"""


def test_the_first_sheet_of_a_workbook_is_read_as_csv(tmp_path, caplog):
    parts = {"workbook": BOOK, "_rels/workbook.xml.rels": LINKS, "sharedStrings": TEXTS, "worksheets/sheet9": SHEET}
    with zipfile.ZipFile(tmp_path / "Book.XLSX", "w") as book:
        for name, content in parts.items():
            book.writestr(f"xl/{name}" if "." in name else f"xl/{name}.xml", content)
    columns = {"text": "text", "label": "label", "stars": "stars"}
    rows = load_rows(tmp_path / "Book.XLSX", columns=columns, max_bad_rows=1, read=lambda values, _: values)
    assert [tuple(row.values()) for row in rows] == [("Stra\u00dfe, the\nfirst", "a", "3"), ("two", "", "0.1")]
    assert [(bad.place, bad.reason) for bad in rows.bad] == [
        ("line 5", "4 fields, but the first line names 3: text, label, stars")
    ]
    assert "of its sheets Reviews, Notes the first, Reviews, is read" in caplog.text
    with pytest.raises(ValueError, match=r"Book.XLSX, line 1: no column 'txt'.* did you mean 'text'"):
        load_rows(tmp_path / "Book.XLSX", columns={"text": "txt"})
    with zipfile.ZipFile(tmp_path / "dates.xlsx", "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in (parts | {"styles": STYLES, "worksheets/sheet9": DATES}).items():
            book.writestr(f"xl/{name}" if "." in name else f"xl/{name}.xml", content)
    rows = load_rows(tmp_path / "dates.xlsx", columns={"text": "text"})
    assert rows["text"][:] == ["2026-11-28", "2026-11-28 09:30:00", "12:00:00", "46354"]
    raw = bytearray((tmp_path / "dates.xlsx").read_bytes())
    for place in range(100, 400):
        raw[place] ^= 255
    (tmp_path / "dates.xlsx").write_bytes(raw)
    with pytest.raises(ValueError, match=r"dates.xlsx is not a readable Excel workbook"):
        load_rows(tmp_path / "dates.xlsx", columns={"text": "text"})
