"""What comes with data leaves as text that people can see: it moves no cursor, hides nothing, names no user."""

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from hftrain.predict import line
from hftrain.report import History, Progress, Table, bars, write_model_card, write_report, write_results
from hftrain.report.formats import without_home
from hftrain.terminal import CONTROLS, Visible, clean_messages, visible, visible_json

EVIL = "a\x1b]0;title\x07\x1b[31mred\x9b2J\u202egnihton\x00"


def test_controls_are_spelt_out_and_lines_stay():
    assert visible("tab\t line\n windows\r\n") == "tab\t line\n windows\n"
    assert visible("\x1b[2J\r\x9b\u202e") == "\\x1b[2J\\r\\x9b\\u202e"
    assert json.loads(visible_json({"x": EVIL}, indent=1)) == {"x": EVIL}
    assert not CONTROLS.search(visible_json({"x": EVIL}, indent=1))


def test_nothing_of_a_row_reaches_the_pages_as_it_is(tmp_path):
    figure = bars("scores", EVIL, {EVIL: 0.5}, note=EVIL)
    shared = {"title": EVIL, "data": {"train": {EVIL: EVIL}}, "samples": [{EVIL: EVIL}], "config": {"a": EVIL}}
    shared |= {"changed": {"b": EVIL}, "lead": EVIL, "figures": [figure]}
    history = [{"step": 1, "loss": 1.0, EVIL: 2.0}]
    write_report(tmp_path, **shared, summary={EVIL: 1.0}, history=history, tables=[Table(EVIL, [{EVIL: EVIL}])])
    write_model_card(tmp_path, **shared, task="tag", usage=f"x = {EVIL!r}\n# {EVIL}", results={"f1": 1.0},
                     dataset=EVIL, base_model=EVIL)  # fmt: skip
    write_results(tmp_path, {"f1": 1.0, EVIL: EVIL})
    log = History(tmp_path / "metrics.jsonl")
    log.append({"step": 1, EVIL: EVIL})
    for name in ("report.html", "README.md", "all_results.json", "metrics.jsonl"):
        assert not CONTROLS.search((tmp_path / name).read_text(encoding="utf-8")), name
    assert log.rows()[0][EVIL] == EVIL


def test_nothing_of_a_row_reaches_the_terminal_as_it_is(capsys):
    Progress(10).print(EVIL)
    Progress(10).log({f"eval_f1_{EVIL}": 1.0})
    entity = {"type": EVIL, "text": EVIL, "start": 0, "end": 1, "probability": 1.0}
    answer = {"answer": EVIL, "probability": 1.0}
    label = {"label": EVIL, "probability": 1.0, "probabilities": {EVIL: 1.0}}
    print(line(EVIL), line([entity]), line(answer), line(label))
    record = logging.LogRecord("hftrain", logging.WARNING, "", 0, "row %s", (EVIL,), None)
    print(Visible().format(record))
    assert not CONTROLS.search(capsys.readouterr().out)


def test_messages_and_errors_of_a_program_are_visible(tmp_path):
    code = (
        "import logging, sys, warnings; from hftrain.config import TrainConfig, parse\nparse(TrainConfig)\n"
        f"logging.getLogger('hftrain.x').warning('row %s', {EVIL!r}); warnings.warn({EVIL!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "\\x1b[31mred" in done.stderr and not CONTROLS.search(done.stderr)
    done = subprocess.run([sys.executable, "-m", "hftrain.cli", "verify", str(tmp_path / "\x1b[31mred")],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and "\\x1b[31mred" in done.stderr and not CONTROLS.search(done.stderr)


def test_messages_are_made_visible_once():
    clean_messages()
    first = warnings.formatwarning
    clean_messages()
    assert warnings.formatwarning is first


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/home/anna.b/data/x.jsonl", "~/data/x.jsonl"),
        ("from_pretrained('/Users/anna/out')", "from_pretrained('~/out')"),
        (r"C:\Users\anna\data", r"~\data"),
        ("HERE/out and HERE", "./out and ."),
        ("HOME/x, HOME", "~/x, ~"),
        ("https://example.org/home/anna/x", "https://example.org/home/anna/x"),
        ("/data/home/x", "/data/home/x"),
        ("either/or", "either/or"),
    ],
)
def test_folders_that_name_a_user(text, clean):
    text = text.replace("HERE", os.getcwd()).replace("HOME", os.path.expanduser("~"))
    assert without_home(text) == clean


def test_the_card_and_the_report_name_no_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/anna_b")
    home = "/srv/people/anna_b"
    shared = {"title": "t", "data": {"source": f"{home}/x.jsonl"}, "config": {"train_file": f"{home}/x.jsonl"}}
    shared |= {"changed": {"output_dir": f"{home}/out"}, "lead": f"of {home}/x.jsonl"}
    write_report(tmp_path, **shared, summary={}, history=[], about=[f"trained from {home}/base"])
    write_model_card(tmp_path, **shared, task="tag", usage=f"load({home + '/out'!r})", results={"f1": 1.0},
                     dataset=f"{home}/x.jsonl", base_model=f"{home}/base")  # fmt: skip
    for name in ("report.html", "README.md"):
        text = Path(tmp_path / name).read_text(encoding="utf-8").replace("\\", "")
        assert "anna" not in text and "~/x.jsonl" in text, name
