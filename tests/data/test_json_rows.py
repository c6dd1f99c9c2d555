"""JSON as people write it: lines, arrays, rows under a key, objects one after another; long, deep, twice, cut short."""

import gzip
import json
import subprocess
import sys
import time

import pytest

from hftrain.data import lines
from hftrain.data.rows import load_rows

ROWS = [{"text": f"row {number}", "more": {"n": number, "s": '"}] ä'}} for number in range(300)]
COLUMNS = {"text": "text", "note": "more.s"}
WANTED = [{"text": row["text"], "note": row["more"]["s"]} for row in ROWS]

SHAPES = {
    "lines": "".join(json.dumps(row) + "\n\n" for row in ROWS),
    "array": json.dumps(ROWS, indent=2),
    "compact array": json.dumps(ROWS, ensure_ascii=False),
    "under a key": json.dumps({"version": "1.0", "tags": ["a"], "rows": ROWS, "rest": {"a": [1]}}, indent=1),
    "under a key, compact": json.dumps({"data": ROWS}),
    "one after another": "\n".join(json.dumps(row, indent=1) for row in ROWS),
}


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.ndjson"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_whatever_the_file_is_called(tmp_path, shape, name, monkeypatch):
    (tmp_path / name).write_text(SHAPES[shape])
    assert list(load_rows(tmp_path / name, columns=COLUMNS)) == WANTED
    monkeypatch.setattr(lines, "PIECE", 7)  # tokens, escapes and characters are cut anywhere
    assert list(load_rows(tmp_path / name, columns=COLUMNS)) == WANTED


def test_rows_under_a_key_have_their_lines_and_the_key_is_in_the_log(tmp_path, caplog):
    rows = [{"text": "a"}, {"text": None}]
    (tmp_path / "rows.json").write_text(json.dumps({"about": "x", "data": rows}, indent=1))
    with pytest.raises(ValueError, match=r"rows.json, line 7: column 'text' is null"):
        load_rows(tmp_path / "rows.json", columns={"text": "text"})
    assert "rows.json: the rows are those under 'data'" in caplog.text
    (tmp_path / "rows.json").write_text(json.dumps({"train": rows, "test": rows}))
    with pytest.raises(ValueError, match=r"one object, with lists of objects under 'train', 'test': write the rows"):
        load_rows(tmp_path / "rows.json", columns={"text": "text"})


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "f"}]},
        {"text": "Obama", "entities": [{"start": 0, "end": 5, "label": "PER"}]},
        {"text": "a", "label": "b"},
    ],
)
def test_a_single_object_that_is_a_row_stays_one(tmp_path, row):
    seen = []
    (tmp_path / "rows.json").write_text(json.dumps(row, indent=1))
    load_rows(tmp_path / "rows.json", columns={"row": ""}, read=lambda values, names: seen.append(values[0]) or ["x"])
    assert seen == [row]


@pytest.mark.parametrize("shape", ["lines", "array"])
def test_a_key_that_stands_twice_is_a_bad_row(tmp_path, shape):
    good, twice = '{"text": "a"}', '{"text": "b", "meta": {"k": 1, "k": 2}}'
    content = f"{good}\n{twice}\n{good}\n" if shape == "lines" else f"[{good},\n{twice},\n{good}]"
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(ValueError, match=r"rows.json, line 2: the key 'k' occurs twice"):
        load_rows(tmp_path / "rows.json", columns={"text": "text"})
    assert len(load_rows(tmp_path / "rows.json", columns={"text": "text"}, max_bad_rows=1)) == 2


def test_what_is_nested_too_deep_is_named(tmp_path):
    deep = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n' + deep + "\n")
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2: not valid JSON: nested too deep to be read"):
        load_rows(tmp_path / "rows.jsonl", columns={"text": "text"})
    assert len(load_rows(tmp_path / "rows.jsonl", columns={"text": "text"}, max_bad_rows=1)) == 1
    for content in (f'[{{"text": "a"}},\n{deep}]', '{"text":\n' + deep + "}", '{"data": [\n' + deep + "]}"):
        (tmp_path / "rows.json").write_text(content)
        with pytest.raises(ValueError, match=r"rows.json, line [12]: not valid JSON.* nested too deep to be read"):
            load_rows(tmp_path / "rows.json", columns={"text": "text"})
    (tmp_path / "rows.json").write_text('[{"text": ' + "7" * 5000 + "}]")
    with pytest.raises(ValueError, match=r"rows.json, line 1: not valid JSON.*\(4300 digits\)"):
        load_rows(tmp_path / "rows.json", columns={"text": "text"})


def test_the_time_is_linear_in_the_length_of_a_row(tmp_path):
    def seconds(parts):
        rows = [{"text": "x", "parts": [{"n": number} for number in range(parts)]}]
        (tmp_path / "rows.json").write_text(json.dumps(rows, indent=1))
        began = time.process_time()
        load_rows(tmp_path / "rows.json", columns={"text": "text"})
        return time.process_time() - began

    seconds(1000)
    assert seconds(80_000) < 24 * max(seconds(10_000), 0.01)  # 64 times, if it grew with the square


def test_a_line_without_end_is_named_before_it_fills_the_memory(tmp_path):
    packed = gzip.compress(b"a" * (1 << 25))
    (tmp_path / "bomb.jsonl.gz").write_bytes(packed * 32)  # 1 GiB
    code = (
        "import resource, sys\n"
        "from hftrain.data import lines\n"
        "from pathlib import Path\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "lines.MAX_LINE, before = 1 << 24, peak()\n"
        "try: next(lines.raw_lines(Path(sys.argv[1])))\n"
        "except ValueError as error: print(error)\n"
        "print(peak() - before)"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "bomb.jsonl.gz"], capture_output=True, text=True)
    message, megabytes = run.stdout.splitlines()
    assert "bomb.jsonl.gz, line 1: more than 16 MiB without a line break" in message
    assert "put line breaks between them" in message and int(megabytes) < 100


def test_a_long_line_is_no_limit_for_an_array(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE", 1000)
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    assert list(load_rows(tmp_path / "rows.json", columns=COLUMNS)) == WANTED
    for name in ("rows.jsonl", "rows.txt", "rows.csv"):
        (tmp_path / name).write_text('{"text": "' + "a" * 2000 + '"}\n{}\n')
        with pytest.raises(ValueError, match=rf"{name}, line 1: more than 0 MiB without a line break"):
            load_rows(tmp_path / name, columns={"text": "text"})
