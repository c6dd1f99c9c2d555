"""The page of a report, opened in a browser where there is one, and the model card."""

import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from hftrain.report import (
    Curves,
    Series,
    Table,
    format_number,
    write_model_card,
    write_report,
)
from tests.report.test_report import HOSTILE, history_rows

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
