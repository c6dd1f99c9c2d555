"""Charts of an evaluation: the numbers they show are those they are given, and everything stays inside its frame."""

import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

from hftrain.metrics import load_metrics, ranking
from hftrain.report import (
    bars,
    confusion_matrix,
    evaluation_figures,
    histogram,
    length_figure,
    per_class_table,
    pr_figure,
    reliability,
    roc_figure,
    write_model_card,
    write_report,
)
from hftrain.report.drawing import SIZE, SMALL, TITLE, Drawn, elided, text_width
from hftrain.report.figures import _y_axis

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def tips(figure: Drawn) -> list[list[str]]:
    return [unescape(tip).split("\n") for tip in re.findall(r'data-tip="([^"]*)"', figure.html())]


def outside(figure: Drawn) -> list[str]:
    """What is drawn over the edge of its frame, by our own idea of how wide letters are."""
    found, drawing = [], figure.drawing
    for mark in drawing.marks:
        (x, y), *more = mark.points
        ends = [(x, y)]
        if mark.kind == "box":
            ends.append((x + more[0][0], y + more[0][1]))
        elif mark.kind == "text":
            width = text_width(mark.text, SMALL if mark.small else SIZE)
            begin = {"start": 0, "middle": -width / 2, "end": -width}[mark.anchor]
            turn = np.radians(mark.turn)
            ends = [(x + at * np.cos(turn), y + at * np.sin(turn)) for at in (begin, begin + width)]
        else:
            ends += more
        if any(not (-1 <= x <= drawing.width + 1 and -1 <= y <= drawing.height + 1) for x, y in ends):
            found.append(mark.text or mark.kind)
    return found


def random_matrix(classes: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.diag(draw.integers(50, 3000, classes)) + (draw.random((classes, classes)) < 0.1) * draw.integers(1, 90)


# --- confusion matrix


def test_confusion_matrix_shows_the_counts():
    figure = confusion_matrix(np.array([[90, 10], [0, 1]]), ["no & <never>", "yes"])
    assert tips(figure) == [
        ["no & <never>", "predicted as no & <never>", "90 of 100, 90.0 %"],
        ["no & <never>", "predicted as yes", "10 of 100, 10.0 %"],
        ["yes", "predicted as yes", "1 of 1, 100.0 %"],
    ]
    assert figure.subtitle == "90.1 % of 101 correct"
    assert figure.note.endswith("Most frequent error: no & <never> predicted as yes (10 times).")
    assert ">90 %<" in figure.html() and ">no &amp; &lt;never&gt;<" in figure.html()
    right, wrong, never, _ = (mark for mark in figure.drawing.marks if mark.kind == "box")
    assert right.colour != wrong.colour and never.colour == "rule" and 0.12 < wrong.opacity < right.opacity < 1


@pytest.mark.parametrize("classes", [1, 2, 3, 6, 12, 13, 20, 33, 50, 77])
@pytest.mark.parametrize(
    "label", ["{}", "class number {}", "transfer_{}_into_another_account_of_somebody", "標簽的名字很長很長{}"]
)
def test_confusion_matrix_stays_in_its_frame(classes, label):
    matrix, labels = random_matrix(classes), [label.format(number) for number in range(classes)]
    figure = confusion_matrix(matrix, labels)
    assert outside(figure) == []
    boxes = [mark for mark in figure.drawing.marks if mark.kind == "box"]
    assert len(boxes) == min(classes, 50) ** 2 and min(box.points[1][0] for box in boxes) > 9
    assert len(tips(figure)) == np.count_nonzero(matrix) or classes > 50
    names = [
        mark.text
        for mark in figure.drawing.marks
        if mark.kind == "text" and mark.colour == "ink" and mark.anchor == "end"
    ]
    assert len(set(names)) == min(classes, 50)  # shortened, they can still be told apart


def test_of_many_classes_those_with_errors_are_shown():
    matrix = np.diag(np.full(60, 10))
    matrix[3, 57] = matrix[57, 59] = 5
    figure = confusion_matrix(matrix, [f"c{number}" for number in range(60)])
    assert (
        figure.note.startswith("The 50 of 60 classes with the most errors.")
        and "96.8 % of 610 correct" not in figure.note
    )
    assert ["c3", "predicted as c57", "5 of 15, 33.3 %"] in tips(figure)
    assert ["c57", "predicted as c59", "5 of 15, 33.3 %"] in tips(figure)


def test_confusion_matrix_refuses():
    with pytest.raises(ValueError, match=r"a confusion matrix of 3 labels cannot have the shape \(2, 2\)"):
        confusion_matrix(np.eye(2), ["a", "b", "c"])


def test_names_that_are_too_long():
    assert elided(["short", "a\nb"], 100) == ["short", "a b"]
    alike = ["transfer_pending_into_account", "transfer_slow_into_account", "card_payment_fee_charged"]
    assert elided(alike, 100) == ["…pending…", "…slow…", "card_pa…charged"]
    assert all(text_width(name) <= 100 for name in elided(alike, 100))
    assert elided([f"{'x' * 30}{number}{'y' * 30}" for number in (1, 2)], 60) == ["…1…", "…2…"]


# --- histogram and bars


def test_histogram_counts_every_value_once():
    lengths = np.array([3] * 10 + [7] * 5 + [8] * 4 + [9, 9, 12])
    figure = length_figure(lengths, 8)
    assert tips(figure) == [
        ["3 tokens", "10 examples, 45.5 %"],
        ["7 tokens", "5 examples, 22.7 %"],
        ["8 tokens", "4 examples, 18.2 %"],
        ["9 tokens", "2 examples, 9.1 %"],
        ["12 tokens", "1 examples, 4.5 %"],
    ]
    beyond = [mark.colour for mark in figure.drawing.marks if mark.tip]
    assert beyond == [0, 0, 0, 1, 1]  # what is as long as the limit is not cut
    assert ">limit 8: 13.6 % are truncated<" in figure.html() and outside(figure) == []
    assert figure.note == "Median 7, 95 % up to 9, largest 12."


@pytest.mark.parametrize("limit", [None, 1, 64, 512, 5000])
@pytest.mark.parametrize("kind", ["long tail", "one value", "few", "narrow"])
def test_histogram_of_any_lengths(kind, limit):
    draw = np.random.default_rng(0)
    lengths = {
        "long tail": np.append(draw.lognormal(3, 0.6, 5000).astype(int), [20_000, 90_000]),
        "one value": np.array([64]),
        "few": np.array([1, 100_000]),
        "narrow": np.full(300, 511) + draw.integers(0, 3, 300),
    }[kind]
    figure = length_figure(lengths, limit)
    counted = [int(re.match(r"([\d,]+) ", tip[1])[1].replace(",", "")) for tip in tips(figure)]
    assert sum(counted) == len(lengths) and outside(figure) == []
    over = sum(
        number for number, mark in zip(counted, (m for m in figure.drawing.marks if m.tip), strict=True) if mark.colour
    )
    assert over == (0 if limit is None else int((lengths > limit).sum()))


def test_a_limit_that_nothing_comes_near_is_told():
    near, far = (length_figure(np.arange(20, 80), limit) for limit in (60, 96))
    assert far.note == "Median 49.5, 95 % up to 76.05, largest 79. Limit 96: 0.0 % are truncated."
    assert (
        "limit 60: 31.7 % are truncated" in [mark.text for mark in near.drawing.marks]
        and "are truncated" not in near.note
    )


def test_fractions_are_not_put_into_one_bar():
    seconds = np.linspace(0.3, 0.9, 50)
    assert len(tips(histogram("h", "H", seconds, x_label="seconds"))) > 20
    assert len(tips(histogram("h", "H", np.arange(3) + 4.0, x_label="seconds"))) == 3


def test_histogram_refuses_nothing():
    with pytest.raises(ValueError, match="figure 'h': no values"):
        histogram("h", "H", np.array([]), x_label="tokens")


def test_bars():
    values = {"person": 0.5, "a location whose name is long": 1.0, "none": 0.0}
    figure = bars("f1", "F1", values, notes={"person": "of 12"}, high=1)
    assert tips(figure) == [["person", "0.5", "of 12"], ["a location whose name is long", "1"], ["none", "0"]]
    half, full, none = (mark.points[1][0] for mark in figure.drawing.marks if mark.tip)
    assert half == pytest.approx(full / 2) and 0 < none < 1 and outside(figure) == []
    with pytest.raises(ValueError, match="figure 'f1': bars need values of at least 0"):
        bars("f1", "F1", {"a": -1.0})


# --- calibration and curves


def test_reliability():
    edges, empty = np.linspace(0, 1, 4), np.nan
    figure = reliability(
        edges, np.array([0, 10, 30]), np.array([empty, 0.5, 0.9]), np.array([empty, 0.7, 0.8]), error=0.125
    )
    assert figure.subtitle == "expected error 12.5 %" and outside(figure) == []
    assert figure.note.endswith("Overall overconfident: confidence 80.0 %, correct 77.5 %.")
    heights = {}
    for mark in figure.drawing.marks:
        if mark.tip:
            heights.setdefault(mark.tip.split("\n")[0], []).append((mark.points[1][1] / 182, mark.colour))
    low, high = heights["confidence 50.0 %"], heights["confidence 90.0 %"]
    assert [value for value, _ in low] == pytest.approx([0.5, 0.2, 46 / 182 / 3])  # both, the gap, the count
    assert [value for value, _ in high] == pytest.approx([0.8, 0.1, 46 / 182])
    assert low[1][1] == low[0][1] and high[1][1] != high[0][1]


def scored(classes: int, count: int = 800):
    draw = np.random.default_rng(classes)
    labels, right = [f"class {number}" for number in range(classes)], draw.integers(0, classes, count)
    logits = 2 * draw.normal(size=(count, classes)) + 3 * np.eye(classes)[right]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    metrics = load_metrics(["accuracy", "roc_auc"], "single_label_classification", labels=labels, report=True)
    metrics.add(scores.argmax(axis=1), right, scores.astype(np.float32))
    return metrics


@pytest.mark.parametrize("count", [30, 800, 50_000])
def test_curves_are_thinned_by_less_than_can_be_seen(count):
    state = scored(2, count).states["scores"]
    (column,) = state.columns()
    for figure, x, y, curve in (
        (roc_figure(state), "fpr", "tpr", ranking.roc_curve(column)),
        (pr_figure(state), "recall", "precision", ranking.pr_curve(column)),
    ):
        line, chance = figure.series
        assert len(line.x) <= 2100 and chance.dashed and list(line.x) == sorted(line.x)
        order = np.argsort(curve[x], kind="stable")
        assert {line.x[0], line.x[-1]} == {curve[x].min(), curve[x].max()}
        drawn = np.stack([line.x, line.y])
        for point in np.stack([curve[x], curve[y]])[:, order[:: max(1, count // 300)]].T:
            assert np.abs(drawn - point[:, None]).max(axis=0).min() <= 1 / 500


def test_curves_name_their_areas():
    metrics = scored(2)
    area, precision = metrics.compute()["roc_auc"], ranking.average_precision(metrics.states["scores"])
    assert [each.name for each in roc_figure(metrics.states["scores"]).series] == [f"class 1 ({area:.3f})", "chance"]
    assert pr_figure(metrics.states["scores"]).series[0].name == f"class 1 ({precision:.3f})"


def test_of_many_classes_the_worst_are_drawn():
    state = scored(12).states["scores"]
    names = [each.name for each in roc_figure(state).series]
    areas = sorted(ranking.roc_auc(state, None))
    assert len(names) == 7 and names[0].startswith("all together (") and names[-1] == "chance"
    assert [float(name[-6:-1]) for name in names[1:-1]] == pytest.approx(areas[:5], abs=5e-4)
    assert len(roc_figure(scored(6).states["scores"]).series) == 7


def test_what_one_class_makes_undefined_is_left_out():
    metrics = scored(4)
    for references in metrics.states["scores"].references:
        references[references == 2] = 1
    note = roc_figure(metrics.states["scores"]).note
    assert "1 of 4 classes are left out: always or never true." in note
    metrics.states["scores"].references = [np.zeros(800, int)]
    assert [figure.name for figure in evaluation_figures(metrics)] == ["confusion_matrix", "calibration"]


# --- in the report and the card


def all_figures() -> dict:
    tags = [["B-LOC", "I-LOC", "O", "B-PER"], ["O", "B-PER"]]
    tagged = load_metrics(["seqeval"], "token_classification")
    tagged.add([tags[0], ["O", "O"]], tags)
    several = load_metrics(["f1"], "multi_label_classification", labels=["a", "b"], report=True)
    several.add([[1, 0], [0, 1], [1, 1]], [[1, 0], [0, 1], [0, 0]], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.7]])
    found = {"few": scored(3), "many": scored(30), "labels": several, "tags": tagged}
    return {name: evaluation_figures(metrics) for name, metrics in found.items()}


def test_figures_and_tables_by_task():
    curves = ["calibration", "roc", "precision_recall"]
    assert {name: [figure.name for figure in figures] for name, figures in all_figures().items()} == {
        "few": ["confusion_matrix", *curves],
        "many": ["confusion_matrix", *curves],
        "labels": ["f1_by_class", *curves],
        "tags": ["f1_by_class"],
    }
    (table,) = per_class_table(scored(3))
    assert [row["class"] for row in table.rows] == ["class 0", "class 1", "class 2"]
    assert sum(row["number"] for row in table.rows) == 800 and table.columns()[1:4] == ["precision", "recall", "f1"]
    assert per_class_table(load_metrics(["mse"], "regression")) == []


def shown_figures() -> list:
    """One of each kind."""
    each = all_figures()
    wide = replace(each["many"][0], name="wide")
    return [*each["few"], wide, each["tags"][0], length_figure(np.arange(300), 128)]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("charts")
    settings: dict = {"summary": {"accuracy": 0.9}, "config": {}, "changed": {}, "history": []}
    return write_report(folder, title="Charts", figures=shown_figures(), tables=per_class_table(scored(3)), **settings)


def test_every_figure_is_also_a_png_and_the_card_shows_four(report):
    from PIL import Image

    folder = report.parent
    for figure in shown_figures():
        with Image.open(folder / "figures" / f"{figure.name}.png") as image:
            assert image.width >= 1380 and image.convert("L").getextrema()[0] < 130
            if isinstance(figure, Drawn):
                shape = figure.drawing.width / (figure.drawing.height + TITLE)
                assert image.width / image.height == pytest.approx(shape, rel=0.01)
    card = write_model_card(
        folder, title="t", task="text-classification", usage="1", results={"accuracy": 0.9}, dataset="d",
        figures=shown_figures(),
    )  # fmt: skip
    shown = re.findall(r'<img src="figures/(.*?)\.png" alt="(.*?)" width="460">', card.read_text())
    assert [name for name, _ in shown] == [figure.name for figure in shown_figures()[:4]]
    assert [title for _, title in shown] == ["Confusion matrix", "Calibration", "ROC", "Precision and recall"]


def browse(page, folder, *flags: str) -> str:
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *flags)
    done = subprocess.run(
        [CHROMIUM, *flags, f"--user-data-dir={folder}", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page in")
def test_hovering_tells_a_cell_and_no_figure_is_wider_than_its_place(report, tmp_path):
    inner = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text(encoding="utf-8"))
    probe = """<script>
      const cell = document.querySelectorAll("svg.drawn rect[data-tip]")[0], box = cell.getBoundingClientRect();
      const event = new PointerEvent("pointermove", {clientX: box.left + 5, clientY: box.top + 5, bubbles: true});
      cell.dispatchEvent(event);
      parent.document.body.dataset.tip = cell.closest("figure").querySelector(".tip").innerText;
      parent.document.body.dataset.ready = document.documentElement.dataset.ready;
      parent.document.body.dataset.width = document.documentElement.scrollWidth;
    </script></body>"""
    (tmp_path / "inner.html").write_text(inner.replace("</body>", probe), encoding="utf-8")
    for width in (360, 1200):
        frame = f'<body><iframe src="inner.html" style="border:0;width:{width}px;height:900px"></iframe>'
        (tmp_path / "outer.html").write_text(frame)
        dom = browse(tmp_path / "outer.html", tmp_path / "profile", "--dump-dom", "--allow-file-access-from-files")
        assert re.search(r'data-tip="class 0\npredicted as class 0\n\d+ of \d+, [\d.]+ %"', dom)
        assert f'data-ready="{len(shown_figures())}"' in dom  # a tip for each figure
        assert int(re.search(r'data-width="(\d+)"', dom)[1]) <= width


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([0.93], 0.465, 1), ([0.93, 0.93], 0.465, 1), ([0.4, 0.99], 0, 1), ([1.0], 0.5, 1), ([98.0], 49, 100),
     ([0.0], 0, 0.5), ([1.5], 0.75, 2.25)],
)  # fmt: skip
def test_an_axis_ends_where_a_share_does(values, low, high):
    assert _y_axis(values, False, None)[:2] == pytest.approx((low, high))
