"""What the user sees: metrics.jsonl, the display, the page (opened in a browser where there is one), the card."""

import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from hftrain.report import (
    Curves,
    History,
    Series,
    curves_of,
    environment,
    format_bytes,
    format_duration,
    format_number,
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


def run_python(script: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)} | variables, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


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
