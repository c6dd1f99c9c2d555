"""What the user sees: metrics.jsonl, the display, the page (opened in a browser where there is one), the card."""

import contextlib
import json
import math
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from hftrain.report import (
    Curves,
    History,
    Progress,
    Series,
    Table,
    curves_of,
    environment,
    format_bytes,
    format_duration,
    format_number,
    write_model_card,
    write_report,
    write_results,
)
from hftrain.report.figures import thin
from hftrain.report.formats import format_setting
from tests import ROOT

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> \"'&|`*_ $x^{$ \ud800"


def strict_json(text: str) -> dict:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


# --- numbers and settings


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (95.1234, "95.12"),
        (0.00012345, "1.234e-4"),
        (3e-4, "3e-4"),
        (0.00999996, "0.01"),
        (12345.6, "12,346"),
        (1234567, "1,234,567"),
        (-0.5, "-0.5"),
        (0.0, "0"),
        (2.5e9, "2.5e9"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (True, "True"),
        (None, "-"),
        ("36.1 on test", "36.1 on test"),
    ],
)
def test_format_number(value, shown):
    assert format_number(value) == shown


def test_durations_and_sizes():
    assert [format_duration(s) for s in (0.4, 59.6, 200, 7500, 273600)] == [
        "0 s", "1 min 00 s", "3 min 20 s", "2 h 05 min", "3 d 04 h",
    ]  # fmt: skip
    assert [format_bytes(b) for b in (12, 812e6, 999.6e6, 2.123e9, 4e15)] == [
        "12 B",
        "812 MB",
        "1 GB",
        "2.12 GB",
        "4e+03 TB",
    ]


def test_settings_name_no_home_and_no_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/srv/people/jane")
    assert format_setting(f"{tmp_path}/data/train.jsonl") == "./data/train.jsonl"
    assert format_setting(["/home/jane/a.csv", "/Users/Jane Doe/b", "/srv/people/jane/c"])[:14] == '["~/a.csv", "~'
    assert "jane" not in format_setting(["/home/jane/a.csv", "/home/jane", "/srv/people/jane/c"])
    assert format_setting("data/home/jane.txt") == "data/home/jane.txt"  # relative: no home
    assert [format_setting(v) for v in (3e-4, None, True, 4096, "cosine")] == [
        "0.0003",
        "null",
        "true",
        "4096",
        "cosine",
    ]


# --- metrics.jsonl, all_results.json


def test_history_is_valid_json_at_once(tmp_path):
    history = History(tmp_path / "run" / "metrics.jsonl")
    history.append({"step": 1, "loss": np.float32(2.5), "samples": np.int64(8), "note": HOSTILE})
    history.append({"step": 2, "loss": math.nan, "grad_norm": math.inf})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert strict_json(lines[0]) == {"step": 1, "loss": 2.5, "samples": 8, "note": HOSTILE}
    assert strict_json(lines[1]) == {
        "step": 2, "loss": None, "grad_norm": None, "not_finite": {"loss": "nan", "grad_norm": "inf"},
    }  # fmt: skip
    assert history.rows() == [strict_json(line) for line in lines]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"loss": 1.0}, "needs a whole number 'step'"),
        ({"step": True}, "needs a whole number 'step'"),
        ({"step": 1, "loss": torch.tensor(1.0)}, r"'loss' is a Tensor.*call \.item\(\)"),
    ],
)
def test_history_refuses(tmp_path, row, message):
    history = History(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match=message):
        history.append(row)
    assert history.rows() == []


def test_history_resumes_at_a_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    history = History(path)
    for step in range(1, 8):
        history.append({"step": step, "loss": 1 / step})
    with path.open("a") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    with pytest.warns(UserWarning, match=r"metrics.jsonl:8: the last line is truncated"):
        resumed = History(path, resume_step=5)
    resumed.append({"step": 6, "loss": 0.5})
    assert [(row["step"], row["loss"]) for row in resumed.rows()] == [*((s, 1 / s) for s in range(1, 6)), (6, 0.5)]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]
    assert History(path).rows() == []


def test_history_names_a_broken_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n[2]\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: not a JSON object with a whole number \"step\""):
        History(path, resume_step=2)
    assert path.read_text().count("\n") == 3


def test_other_processes_write_nothing(tmp_path):
    history = History(tmp_path / "metrics.jsonl", enabled=False)
    history.append({"step": 1})
    assert history.rows() == [] and os.listdir(tmp_path) == []


def test_a_full_disk_costs_lines_not_the_run_nor_the_older_file(tmp_path):
    """A limit on the size of files stands for the disk: the kernel cuts and refuses writes in the same way."""
    script = """
import resource, sys, warnings
from hftrain.report import History, write_results
warnings.simplefilter("always")
history = History("metrics.jsonl")
write_results(".", {"score": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for step in range(1, 9):
    history.append({"step": step, "text": "x" * 20})
try:
    write_results(".", {"score": list(range(100))})
except OSError:
    print("refused")
"""
    done = run_python(script, cwd=tmp_path)
    assert done.stdout.strip() == "refused" and done.returncode == 0, done.stderr
    assert [strict_json(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert done.stderr.count("metrics are being lost from step 3 on") == 1
    assert strict_json((tmp_path / "all_results.json").read_text()) == {"score": 1}
    assert sorted(os.listdir(tmp_path)) == ["all_results.json", "metrics.jsonl"]


def test_results(tmp_path):
    path = write_results(tmp_path, {"sacrebleu": 36.5, "by_length": {"long": math.nan}, "names": ("é", 1)})
    assert strict_json(path.read_text(encoding="utf-8")) == {
        "sacrebleu": 36.5, "by_length": {"long": None}, "names": ["é", 1], "not_finite": {"by_length.long": "nan"},
    }  # fmt: skip


# --- the display

LOOP = """
import sys, time
from hftrain.report import Progress
with Progress(total=1200, start=400) as progress:
    for step in range(401, 405):
        time.sleep(0.25)
        values = {"loss": 2.0 + step / 1000, "learning_rate": 3e-4, "grad_norm": 1.5, "tokens_per_second": 12345.6}
        progress.update(step, values)
        progress.print(f"note {step} [bold]\\x1b[31mé\\u4e2d")
        print("printed", step)
    progress.log({"loss": 2.404, "learning_rate": 3e-4})
    with progress.phase("evaluating", total=10) as at:
        time.sleep(0.25)
        at(3)
        with progress.phase("generating"):
            pass
    progress.log({"eval_loss": 1.75, "eval_sacrebleu": 36.123})
    progress.update(405)
    if "fail" in sys.argv:
        raise RuntimeError("a bad batch")
"""


def run_python(script: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)} | variables, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def run_on_terminal(script: str, *arguments: str, columns: int = 100) -> tuple[str, int]:
    """What the script sends to a pseudo-terminal, and its exit code."""
    ours, theirs = pty.openpty()
    environ = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    environ |= {
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        "COLUMNS": str(columns),
        "LINES": "40",
        "PYTHONIOENCODING": "utf-8",
    }
    child = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    sent = b""
    while True:
        try:
            sent += (more := os.read(ours, 65536))
        except OSError:  # Linux: the last writer is gone
            break
        if not more:
            break
    os.close(ours)
    return sent.decode(), child.wait(timeout=30)


def screen(sent: str) -> list[str]:
    """The lines that a terminal shows after `sent`: a terminal as small as what rich sends needs."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]", sent):
        if token == "\r":
            column = 0
        elif token == "\n":
            row, column = row + 1, 0
        elif token.endswith("A") and token[0] == "\x1b":
            row -= int(token[2:-1] or 1)
        elif token.startswith("\x1b["):
            assert token[-1] in "Kmhl", f"unknown sequence {token!r}"
            if token[-1] == "K":
                lines[row] = "" if token[2:-1] == "2" else lines[row][:column]
        else:
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]


def test_display_on_a_terminal():
    sent, code = run_on_terminal(LOOP)
    assert code == 0, sent
    shown = screen(sent)
    for step in range(401, 405):
        at = shown.index(
            f"note {step} [bold]\\x1b[31mé中"
        )  # whole, alone on its line, its escape code shown and not obeyed
        assert shown[at + 1] == f"printed {step}"
    evaluation = next(line for line in shown if "eval_loss 1.75" in line)
    assert "404/1,200" in evaluation and "eval_sacrebleu 36.12" in evaluation
    bars = [number for number, line in enumerate(shown) if line.startswith("training") and "━" in line]
    assert len(bars) == 1, "\n".join(shown)
    assert re.search(r"405/1,200 +\d s, eta \d+ (s|min)", shown[bars[0]])
    assert re.search(
        r"loss 2.404   lr 3e-4   grad norm 1.5   12,346 tokens/s   (RAM|GPU) [\d.]+ [MG]B$", shown[bars[0] + 1]
    )
    assert "evaluating 3/10" in sent and "generating" in sent
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l"), "the cursor must come back"


def test_display_on_a_narrow_terminal_of_a_run_that_fails():
    sent, code = run_on_terminal(LOOP, "fail", columns=44)
    assert code == 1 and "RuntimeError: a bad batch" in sent
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l"), "the cursor must come back"
    shown = screen(sent)
    assert sum("405/1,200" in line for line in shown) == 1
    assert all(len(line) <= 44 for line in shown)


def test_a_command_is_not_broken_in_two():
    program = "from hftrain.report import Progress\nwith Progress(9) as progress:\n"
    sent, _ = run_on_terminal(f"{program}    progress.print('  hftrain run ' + 'word ' * 40, wrap=False)\n", columns=80)
    assert "hftrain run " + "word " * 39 in sent


def test_display_on_a_pipe_is_plain_lines(tmp_path):
    done = run_python(LOOP, cwd=tmp_path, FORCE_COLOR="1", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("printed")]
    assert lines[:4] == [f"note {step} [bold]\\x1b[31m\\xe9\\u4e2d" for step in range(401, 405)]
    assert re.fullmatch(r"step   404/1,200  loss 2.404 +lr 3e-4 +RAM [\d.]+ [MG]B  eta \d min \d\d s", lines[4])
    assert lines[5:] == [
        "step   404/1,200  evaluating",
        "step   404/1,200  generating",
        "step   404/1,200  eval_loss 1.75    eval_sacrebleu 36.12",
    ]


def test_other_processes_show_nothing(capsys):
    with Progress(10, enabled=False) as progress, progress.phase("saving") as at:
        at(1)
        progress.update(1, {"loss": 1.0})
        progress.log({"loss": 1.0})
        progress.print("note")
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_leaves_does_not_end_the_run():
    program = "import time; from hftrain.report import Progress\nwith Progress(9) as progress:\n"
    program += "    for i in range(9): progress.print('line'); time.sleep(0.1)\nprint('and what is printed at the end')"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout.readline() == b"line\n"
        run.stdout.close()
        assert (run.stderr.read(), run.wait()) == (b"", 0)


def test_update_is_cheap_and_needs_no_thread():
    ours, theirs = pty.openpty()

    def read() -> None:
        with contextlib.suppress(OSError):  # the end of a pseudo-terminal
            while os.read(ours, 65536):
                pass

    threading.Thread(target=read, daemon=True).start()
    threads = threading.active_count()
    costs = []
    with os.fdopen(theirs, "w") as file, Progress(100_000, file=file) as progress:
        for step in range(1, 20_001):
            began = time.perf_counter()
            progress.update(step, {"loss": 1.0, "learning_rate": 1e-4})
            costs.append(time.perf_counter() - began)
        assert threading.active_count() == threads, "a drawing thread may hold a lock while a data worker is forked"
    assert sorted(costs)[len(costs) // 2] < 50e-6


# --- the machine


def test_environment_names_nobody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "4")
    found = environment()
    assert strict_json(json.dumps(found)) == found
    assert found["torch"] == torch.__version__ and found["world_size"] == 4 and "git_commit" not in found
    secrets = [os.uname().nodename, str(Path.home()), str(tmp_path)]
    assert not [secret for secret in secrets if len(secret) > 3 and secret in json.dumps(found)]

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    Path("a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-q", "-m", "one")
    assert environment()["git_commit"] == git("rev-parse", "HEAD")
    Path("a.txt").write_text("2")
    assert environment()["git_commit"].endswith("with uncommitted changes")


# --- figures


def test_thin_keeps_spikes_and_gaps():
    steps = list(range(100_000))
    values: list[float | None] = [math.sin(step / 3000) for step in steps]
    values[31_415], values[27_182], values[60_000] = 99.0, -99.0, None
    x, y = thin(steps, values)
    assert len(x) <= 2000 and x == sorted(x) and (x[0], x[-1]) == (0, 99_999)
    assert {(31_415, 99.0), (27_182, -99.0), (60_000, None)} <= set(zip(x, y, strict=True))
    assert thin(steps[:50], values[:50]) == (steps[:50], values[:50])


def history_rows(steps: int = 600) -> list[dict]:
    rows: list[dict] = []
    for step in range(1, steps + 1):
        noise = math.sin(step * 12.9898) * 0.2
        rows.append(
            {
                "step": step,
                "epoch": step / 100,
                "loss": 8 * math.exp(-step / 80) + 1.5 + noise,
                "learning_rate": 3e-4 * min(step / 60, (60 / step) ** 0.5),
                "grad_norm": 1 + noise + (400 if step == 377 else 0),
                "tokens_per_second": 12_000 + 900 * noise,
                "seconds": step * 0.4,
            }
        )
        if step % 100 == 0:
            rows.append({"step": step, "eval_loss": 7 * math.exp(-step / 90) + 1.8, "eval_sacrebleu": 36 - 3000 / step})
    rows[100]["loss"] = None
    return rows


def test_curves_of_a_history():
    charts = {chart.name: chart for chart in curves_of(history_rows())}
    assert list(charts) == ["loss", "sacrebleu", "learning_rate", "grad_norm", "tokens_per_second"]
    assert [series.name for series in charts["loss"].series] == ["training", "training, median of 13", "evaluation"]
    assert "1 value not finite" in charts["loss"].note
    assert {name for name, chart in charts.items() if chart.logarithmic} == {"grad_norm"}  # because of its spike
    assert "highest 401" in charts["grad_norm"].note and "at 377" in charts["grad_norm"].note
    again = curves_of([{"step": 1, "loss": 9.0}, {"step": 2, "loss": 8.0}, {"step": 1, "loss": 1.0}])
    assert list(again[0].series[0].y) == [1.0, 8.0]  # the later line counts
    assert curves_of([{"step": 1, "loss": None, "not_finite": {"loss": "nan"}}]) == []


def test_svg_places_points_where_the_axes_say():
    chart = Curves("c", "C", [Series("a", [0, 10, 20], [0.0, None, 1.0])], y_range=(0, 1))
    (svg,) = ElementTree.fromstring(chart.html())
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in svg.iter("circle")]
    data = json.loads(svg.get("data-chart"))
    assert dots == [(data["left"], data["bottom"]), (data["right"], data["top"])]
    labels = {text.text: float(text.get("y")) - 3.5 for text in svg.iter("text") if float(text.get("x")) < data["left"]}
    assert labels["0"] == data["bottom"] and labels["1"] == data["top"]
    assert not [path for path in svg.iter("path") if "thick" in path.get("class")]  # a gap is not bridged


@pytest.mark.parametrize(
    "y", [[], [None], [5.0], [0.0, 0.0], [1e-30, 1.0], [-1e9, 1e9], [3e-4, 2e-4], [1.0, 1.0000001], [1e300, 1.0]]
)
def test_any_values_can_be_drawn(tmp_path, y):
    chart = Curves("c", "C", [Series("a", list(range(len(y))), y)])
    svg = chart.html()
    assert not re.search(r"\b(nan|inf)\b", svg, re.IGNORECASE)
    assert len([text for text in ElementTree.fromstring(svg).iter("text") if float(text.get("x")) < 52]) <= 14
    chart.png(tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 5000


def test_figures_refuse():
    with pytest.raises(ValueError, match="figure 'roc', series 'a': 2 x but 1 y"):
        Curves("roc", "ROC", [Series("a", [0, 1], [0.0])])
    with pytest.raises(ValueError, match="'roc': a logarithmic axis cannot show values <= 0"):
        Curves("roc", "ROC", [Series("a", [0, 1], [0.0, 1.0])], y_log=True)


# --- the page


def example_report(output_dir: Path) -> Path:
    pairs = [("Ein Hund läuft.", "A dog runs."), ("مرحبا بالعالم", "Hello world"), (HOSTILE, HOSTILE)] * 7
    roc = Curves(
        "roc", f"ROC {HOSTILE}", [Series(HOSTILE, [0, 1], [0.0, 1.0]), Series("b", [0, 1], [0, 1])], note=HOSTILE
    )
    return write_report(
        output_dir,
        title=f"English-German {HOSTILE}",
        lead=HOSTILE,
        summary={"sacreBLEU": 36.1234, "Parameters": 12_412_928, HOSTILE: HOSTILE},
        config={"learning_rate": 3e-4, "seed": 42, "lora": {"r": 8}, "train_file": HOSTILE},
        changed={"lora": {"r": 8}, "train_file": HOSTILE},
        history=[*history_rows(), {"step": 600, f"eval_{HOSTILE}": 1.0}],
        samples=[{"source": source, "hypothesis": target, HOSTILE: target} for source, target in pairs],
        data={"train": {"examples": 29_000, "truncated": 0.0012}, "test": {"examples": 1000}, "vocabulary": 8000},
        environment={"torch": "2.13", "gpus": [], HOSTILE: HOSTILE},
        figures=[roc],
        tables=[Table(f"Per class {HOSTILE}", [{"class": HOSTILE, "precision": 0.91234, "count": 1200}], note=HOSTILE)],
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an empty legend, a scale without values
        return example_report(tmp_path_factory.mktemp("report"))


class Page(HTMLParser):
    """Elements with their attributes, the text, and whether every element is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "br", "img", "path", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_well_formed_and_needs_nothing_else(report):
    page = Page(report)
    assert page.open == []
    assert [tag for tag, _ in page.elements if tag in ("link", "img", "iframe", "object", "base", "form", "a")] == []
    attributes = [(name, value) for _, attributes in page.elements for name, value in attributes.items()]
    assert not [name for name, _ in attributes if name in ("src", "href", "srcset", "action") or name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", report.read_text(encoding="utf-8"))
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_page_shows_text_and_runs_none_of_it(report):
    page = Page(report)
    assert [tag for tag, _ in page.elements].count("script") == 1
    shown = HOSTILE.replace("\ud800", "\\ud800")
    assert sum(shown in text for text in page.text) > 20
    text = " ".join(page.text)
    for expected in (
        "36.12",
        "12,412,928",
        "Ein Hund läuft.",
        "29,000",
        "9 more",
        "0.9123",
        "2 settings at their defaults",
    ):
        assert expected in text
    assert text.index("lora.r") < text.index("learning_rate")  # changed values first


def test_page_has_every_curve_also_as_png(report):
    from PIL import Image

    names = {path.name for path in (report.parent / "figures").iterdir()}
    assert {
        "loss.png",
        "sacrebleu.png",
        "learning_rate.png",
        "grad_norm.png",
        "tokens_per_second.png",
        "roc.png",
    } <= names
    page = Page(report)
    assert len(names) == [tag for tag, _ in page.elements].count("svg") == 7
    for name in names:
        with Image.open(report.parent / "figures" / name) as image:
            assert image.size[0] == 1380 and image.size[1] >= 840


def test_report_without_training_and_with_two_figures_of_one_name(tmp_path):
    roc = Curves("roc", "ROC", [Series("a", [0, 1], [0.0, 1.0])])
    page = write_report(tmp_path, title="Scores", summary={"f1": 0.5}, config={}, changed={}, history=[])
    headings = re.findall(r"<h2>(.*?)</h2>", page.read_text())
    assert headings == []
    with pytest.raises(ValueError, match="two figures are named roc"):
        write_report(tmp_path, title="t", summary={}, config={}, changed={}, history=[], figures=[roc, roc])


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def browse(page: Path, folder: Path, *flags: str) -> str:
    assert CHROMIUM
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
         f"--user-data-dir={folder}", "--window-size=1280,1600", *flags, page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []  # neither an error of the script nor something that the policy had to stop
    return done.stdout


def test_on_a_phone_sentences_are_stacked_and_numbers_are_not():
    long = "a sentence of more than sixty letters is not to be read in a column"
    assert 'class="prose"' in Table("Worst", [{"text": long, "loss": 2.5}]).html()
    assert 'class="facts"' in Table("By class", [{"class": "a name of more than thirty letters", "f1": 0.5}]).html()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page in")
def test_page_in_a_browser(report, tmp_path):
    from PIL import Image

    dom = browse(report, tmp_path / "profile", "--dump-dom")
    assert re.search(r'<html[^>]* data-ready="7"', dom)  # the script reached its end, with a tip for each figure
    assert "<title>English-German" in dom  # and no other script has changed it
    brightness = {}
    for name, scheme in (("light", 1), ("dark", 0)):
        shot = tmp_path / f"{name}.png"
        browse(
            report,
            tmp_path / f"profile-{name}",
            f"--screenshot={shot}",
            f"--blink-settings=preferredColorScheme={scheme}",
        )
        with Image.open(shot) as image:
            pixels = np.asarray(image.convert("L"), dtype=float)
        assert pixels.std() > 5, "the page is blank"
        brightness[name] = np.median(pixels)
    assert brightness["light"] > 200 and brightness["dark"] < 60


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page in")
def test_hover_tells_the_values_and_a_phone_needs_no_sideways_scroll(report, tmp_path):
    """A page around the report (its policy taken out, to let a script look inside) points at the loss curve."""
    inner = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text(encoding="utf-8"))
    probe = """<script>
      const loss = [...document.querySelectorAll("figure")].find((f) => f.innerText.startsWith("Loss"));
      const svg = loss.querySelector("svg"), box = svg.getBoundingClientRect();
      const at = box.left + box.width * (52 + 396 * 99 / 599) / 460;  // step 100 of 1..600
      svg.dispatchEvent(new PointerEvent("pointermove", {clientX: at, clientY: box.top + 40}));
      parent.document.body.dataset.tip = loss.querySelector(".tip").innerText;
      parent.document.body.dataset.width = document.documentElement.scrollWidth;
    </script></body>"""
    (tmp_path / "inner.html").write_text(inner.replace("</body>", probe), encoding="utf-8")
    (tmp_path / "outer.html").write_text(
        '<body><iframe src="inner.html" style="border:0;width:360px;height:900px"></iframe>'
    )
    dom = browse(tmp_path / "outer.html", tmp_path / "profile", "--dump-dom", "--allow-file-access-from-files")
    tip = re.search(r'data-tip="([^"]*)"', dom)
    expected = next(row for row in history_rows() if row["step"] == 100 and "eval_loss" in row)
    assert tip and tip[1].startswith("step 100\n")
    assert f"evaluation {format_number(expected['eval_loss'])}" in tip[1]
    width = re.search(r'data-width="(\d+)"', dom)
    assert width and int(width[1]) <= 360


# --- the model card


def card(output_dir: Path, **changes) -> str:
    values = {
        "title": "tiny-en-de",
        "task": "translation",
        "usage": 'from transformers import pipeline\nprint(pipeline("translation", model="."))',
        "results": {"sacrebleu": 36.12344, "chrf": 58.4},
        "dataset": "Multi30k",
        "language": ["en", "de"],
        "config": {"learning_rate": 3e-4, "seed": 42},
        "changed": {"learning_rate": 3e-4},
        "data": {"train": {"examples": 29_000}, "test": {"examples": 1000}, "vocabulary": 8000},
        "samples": [{"source": HOSTILE + "\nnext line", "hypothesis": "a | b"}],
        "environment": {"torch": "2.13"},
    }
    return write_model_card(output_dir, **values | changes).read_text(encoding="utf-8")


def test_card_is_read_back_by_the_hub_library(tmp_path):
    from huggingface_hub import ModelCard

    text = card(
        tmp_path, base_model="Helsinki-NLP/opus-mt-en-de", dataset_ids=["bentrevett/multi30k"], tags=["seq2seq"]
    )
    read = ModelCard.load(tmp_path / "README.md")
    metadata = read.data.to_dict()
    results = metadata.pop("model-index")
    assert metadata == {
        "language": ["en", "de"],
        "library_name": "transformers",
        "pipeline_tag": "translation",
        "base_model": "Helsinki-NLP/opus-mt-en-de",
        "datasets": ["bentrevett/multi30k"],
        "metrics": ["sacrebleu", "chrf"],
        "tags": ["hftrain", "seq2seq"],
    }
    assert results[0]["name"] == "tiny-en-de"
    result = results[0]["results"][0]
    assert result["dataset"] == {"name": "Multi30k", "type": "bentrevett/multi30k", "split": "test"}
    assert [(each["type"], each["value"]) for each in result["metrics"]] == [("sacrebleu", 36.1234), ("chrf", 58.4)]
    assert "| sacrebleu | 36.12 |" in text and "figures/loss.png" not in text


def test_card_of_an_adapter_on_a_local_model(tmp_path, monkeypatch):
    from huggingface_hub import ModelCard

    monkeypatch.chdir(tmp_path)
    Path("marian").mkdir()
    text = card(tmp_path, base_model="marian", adapter=True, results={}, language="de")
    metadata = ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert metadata["library_name"] == "peft" and metadata["language"] == ["de"]
    assert "base_model" not in metadata and "model-index" not in metadata and "license" not in metadata
    assert "Trained from `marian`" in text and "## Results" not in text


def test_card_tables_hold_any_text(tmp_path, report):
    text = card(report.parent, usage="print('```')")
    assert "![Training and evaluation loss](figures/loss.png)" in text
    row = next(line for line in text.splitlines() if "next line" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 3 and not re.search(r"(?<!\\)[<*`]", row)
    assert "````python\nprint('```')\n````" in text
    assert "|  | train | test |" in text and "| vocabulary | 8,000 |" in text
