"""`hftrain compare`: data that differ first, then scores, settings and curves, in the terminal and on one page."""

import html
import json
import re
import warnings
from dataclasses import dataclass

from hftrain import cli
from hftrain.config import TrainConfig
from hftrain.report import History, Report, publish, write_results
from hftrain.report.curves import overlaid
from hftrain.report.history import write_run
from hftrain.train.compare import comparable, read_run, read_runs

RESULTS = {"total_steps": 20, "samples_seen": 640, "train_runtime": 65.0, "train_tokens_per_second": 9.5}


def make(folder, *, loss=0.5, accuracy=0.9, interval=None, rows=None, steps=20, batch=32, **config):
    """An output folder as a run leaves it; `rows`: split -> fingerprint."""
    folder.mkdir(parents=True)
    history = History(folder / "metrics.jsonl")
    for step in range(1, steps + 1):
        history.append({"step": step, "loss": loss + 1 / step, "learning_rate": 1e-4, "seconds": float(step)})
    history.append({"step": steps, "eval_loss": loss, "eval_accuracy": accuracy})
    results = {**RESULTS, "total_steps": steps, "samples_seen": batch * steps}
    results |= {"eval_loss": loss, "test_loss": loss, "test_accuracy": accuracy}
    results |= {"intervals": {"test_accuracy": interval}} if interval else {}
    write_results(folder, results)
    rows = {"train": "t" * 16, "validation": "v" * 16, "test": "x" * 16} | (rows or {})
    data = {name: {"rows": 100, "fingerprint": digest} for name, digest in rows.items()}
    settings = {"learning_rate": 1e-4, "seed": 42, "lora": {"r": 8}, "output_dir": str(folder)} | config
    run = {"task": "text-classification", "metric": "test_accuracy", "config": settings, "data": data}
    write_run(folder, run | {"environment": {"torch": "2.11"}})
    return folder


def compare(tmp_path, capsys, *folders):
    assert cli.main(["compare", *map(str, folders), "--output", str(tmp_path / "c.html")]) == 0
    return capsys.readouterr().out, (tmp_path / "c.html").read_text(encoding="utf-8")


def test_scores_settings_and_curves_of_two_runs(tmp_path, capsys):
    one = make(tmp_path / "one", accuracy=0.9, interval=[0.86, 0.93])
    two = make(tmp_path / "two", accuracy=0.8, interval=[0.75, 0.84], learning_rate=5e-5, lora={"r": 16})
    said, page = compare(tmp_path, capsys, one, two)
    lines = [re.split(r"  +", line.strip()) for line in said.splitlines()]
    assert ["score", str(one), str(two)] in lines
    assert ["accuracy", "90.0 % (86.0-93.0)", "80.0 % (75.0-84.0)"] in lines
    assert ["learning_rate", "0.0001", "5e-05"] in lines and ["lora.r", "8", "16"] in lines
    assert not any(line[0] in ("seed", "output_dir") for line in lines) and "note:" not in said
    assert said.index("accuracy") < said.index("loss")  # the score that counts stands first
    charts = [json.loads(html.unescape(chart)) for chart in re.findall(r'data-chart="(.*?)"', page)]
    assert [[line["name"] for line in chart["series"]] for chart in charts] == [[str(one), str(two)]] * 4
    assert [chart["series"][0]["colour"] for chart in charts] + [charts[0]["series"][1]["colour"]] == [0] * 4 + [1]
    assert charts[0]["series"][0]["x"] == list(range(1, 21)) and charts[0]["xLabel"] == "step"
    assert "90.0 % (86.0-93.0)" in page and "<h2>Settings that differ</h2>" in page and "http://" not in page
    assert "environment" not in said and "Environment that differs" not in page


def test_scores_of_other_test_rows_are_never_compared_in_silence(tmp_path, capsys):
    one, two = make(tmp_path / "one"), make(tmp_path / "two", rows={"test": "y" * 16, "train": "u" * 16})
    said, page = compare(tmp_path, capsys, one, two)
    first, second = said.splitlines()[:2]
    assert first.startswith("note: The test rows differ: test scores come from different rows and cannot be compared")
    assert f"{one}: 100 rows, xxxxxxxxxxxx, {two}: 100 rows, yyyyyyyyyyyy" in first
    assert second.startswith("note: The train rows differ: the runs learnt from different rows")
    assert "These scores come from different rows and cannot be compared" in said.partition("Scores, test")[2]
    assert page.index("The test rows differ") < page.index("<h2>Scores, test</h2>")
    assert "no setting differs" in said


def test_a_run_without_run_json_is_compared_by_its_checkpoint(tmp_path, capsys):
    one, two, three = make(tmp_path / "one"), make(tmp_path / "two"), make(tmp_path / "three")
    for folder, digest, rate in ((one, "a", 1e-4), (two, "a", 2e-4), (three, "b", 2e-4)):
        (folder / "run.json").unlink()
        (folder / "checkpoint-20").mkdir()
        contract = {"learning_rate": rate, "train_data": "c", "test_data": digest, "model": {"d": 4}}
        (folder / "checkpoint-20" / "manifest.json").write_text(json.dumps({"contract": contract}))
    runs = read_runs([one, two, three])
    assert comparable(runs[:2], "test") is True and comparable(runs[1:], "test") is False
    assert comparable(runs, "train") is True and comparable(runs, "validation") is None
    said, _ = compare(tmp_path, capsys, one, two)
    assert re.search(r"learning_rate +0.0001 +0.0002", said) and "model.d" not in said
    # Examples of another tokenizer are others even if the rows are the same, and examples are no rows.
    (three / "tokenizer.json").write_text("{}")
    assert comparable(read_runs([two, three]), "test") is None
    assert comparable([runs[0], read_run(make(tmp_path / "four"))], "test") is None


def test_tokens_of_two_tokenizers_do_not_say_whether_the_text_is_the_same(tmp_path):
    folders = [make(tmp_path / name, rows={"validation": name * 8}) for name in ("one", "two")]
    for folder in folders:
        run = json.loads((folder / "run.json").read_text())
        run["data"] = {"validation": {"documents": 9, "fingerprint": run["data"]["validation"]["fingerprint"]}}
        (folder / "run.json").write_text(json.dumps(run))
    assert comparable(read_runs(folders), "validation") is False  # of one tokenizer, so the text differs
    (folders[0] / "tokenizer.json").write_text("{}")
    runs = read_runs(folders)
    assert comparable(runs, "validation") is None and runs[0].sizes == {"validation": 9}


def test_a_run_that_goes_on_has_curves_and_no_scores(tmp_path, capsys):
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    (two / "all_results.json").unlink()
    (two / "run.json").unlink()
    with open(two / "metrics.jsonl", "a") as file:
        file.write('{"step": 21, "lo')
    with warnings.catch_warnings(record=True):
        said, page = compare(tmp_path, capsys, one, two)
    assert f"note: {two} is not finished: it has no scores yet." in said
    assert f"note: The settings of {two} are not known." in said and "no setting differs" not in said
    assert (
        f"Whether the test rows are the same is not known ({one}: 100 rows, xxxxxxxxxxxx, {two}: no fingerprint)"
        in said
    )
    assert re.search(r"accuracy +90\.0 % +-", said) and page.count('data-chart="') == 4


def test_other_batches_are_drawn_over_the_rows_seen(tmp_path, capsys):
    one, two = make(tmp_path / "one", batch=32, steps=20), make(tmp_path / "two", batch=8, steps=80)
    _, page = compare(tmp_path, capsys, one, two)
    chart = json.loads(html.unescape(re.search(r'data-chart="(.*?)"', page)[1]))
    assert chart["xLabel"] == "rows seen" and [line["x"][-1] for line in chart["series"]] == [640, 640]


def test_names_of_folders_do_no_harm(tmp_path, capsys):
    one, two = make(tmp_path / "<b>one", name="<script>"), make(tmp_path / "t\x1b[31mwo", name="a" * 90)
    said, page = compare(tmp_path, capsys, one, two)
    assert "\x1b" not in said + page and "<b>one" not in page and "<script>" not in page.partition("<footer>")[0]
    assert f"{'a' * 18}…" in said.replace('"', "")


def test_folders_that_have_names_of_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "score"), make(tmp_path / "setting", seed=7)
    lines = [re.split(r"  +", line.strip()) for line in compare(tmp_path, capsys, "score", "setting")[0].splitlines()]
    assert ["score", "./score", "./setting"] in lines and ["accuracy", "90.0 %", "90.0 %"] in lines
    assert ["setting", "./score", "./setting"] in lines and ["seed", "42", "7"] in lines


def test_what_cannot_be_compared_is_named(tmp_path, capsys):
    one = make(tmp_path / "one")

    def fails(*arguments):
        assert cli.main(["compare", *map(str, arguments), "--output", str(tmp_path / "c.html")]) == 2
        assert not (tmp_path / "c.html").exists()
        return capsys.readouterr().err

    assert "give 2 to 6 output folders to compare, not 1" in fails(one)
    assert f"{tmp_path / 'one'} is given twice" in fails(one, tmp_path / "x" / ".." / "one")
    assert f"no run in {tmp_path / 'none'}" in fails(one, tmp_path / "none")
    two = make(tmp_path / "two")
    (two / "run.json").write_text("[1]")
    assert f"{two / 'run.json'} is damaged: it should contain an object, not a list" in fails(one, two)
    assert cli.main(["compare", str(one), str(make(tmp_path / "three")), "--output", str(tmp_path / "c.pdf")]) == 2
    printed = capsys.readouterr()
    assert "use the ending .html" in printed.err and not printed.out


def test_lines_of_a_chart_are_those_of_the_log():
    rows = [
        {"step": step, "loss": float(step), "eval_f1": None if step == 2 else 0.5, "note": "x"} for step in (1, 2, 2, 3)
    ]
    charts = overlaid({"a": rows, "b": [{"step": 4, "loss": 9.0}]}, per_step={"a": 2.0})
    assert [(chart.name, chart.title, chart.unit) for chart in charts] == [
        ("loss", "Loss", "mean per item"),
        ("eval_f1", "F1", "evaluation"),
    ]
    assert [(line.name, line.x, line.y) for line in charts[0].series] == [
        ("a", [2, 4, 6], [1.0, 2.0, 3.0]),
        ("b", [4], [9.0]),
    ]
    assert charts[1].series[0].y == [0.5, None, 0.5]


class Alone:
    """As much of an Accelerator as publishing asks for."""

    is_main_process = True
    trackers = ()
    num_processes = 1
    mixed_precision = "no"
    distributed_type = "DistributedType.NO"

    def log(self, *_, **__):
        pass


def test_publish_leaves_what_a_comparison_needs(tmp_path, monkeypatch):
    @dataclass
    class Config(TrainConfig):
        train_file: str = "a.jsonl"

    monkeypatch.setenv("HOME", "/home/somebody")
    folder = tmp_path / "out"
    History(folder / "metrics.jsonl").append({"step": 1, "loss": 1.0})
    config = Config(output_dir=str(folder), learning_rate=3e-4, train_file="/home/somebody/a.jsonl")
    data = {"test": {"rows": 7, "fingerprint": "abc"}}
    scores = {"accuracy": 0.5, "loss": 1.0}
    report = Report("t", "text-classification", usage="1", metric="accuracy", scores=scores, data=data)
    results = publish(Alone(), config, RESULTS, report)
    assert results["test_accuracy"] == 0.5
    run = read_run(folder)
    assert run.settings["learning_rate"] == 3e-4 and run.data == {"test": "abc"} and run.sizes == {"test": 7}
    assert run.settings["train_file"] == "~/a.jsonl" and run.metric == "test_accuracy"
    assert "output_dir" not in run.settings and "torch" in run.environment
    assert "/home/somebody" not in (folder / "run.json").read_text()


def test_other_tasks_guesses_and_remarks_stand_beside_the_scores(tmp_path, capsys):
    one, two = make(tmp_path / "one", load_best_model_at_end=False), make(tmp_path / "two", problem_type="regression")
    for folder, more in (
        (
            one,
            {"baseline": {"test_accuracy": 0.5}, "intervals": {"test_accuracy": [0.86, 0.931]}, "best_step": 4},
        ),
        (two, {"remarks": ["not learnt"]}),
    ):
        write_results(folder, json.loads((folder / "all_results.json").read_text()) | more)
    said, _ = compare(tmp_path, capsys, one, two)
    assert f"note: The tasks differ: scores and losses of one name are not of one kind ({one}: text-class" in said
    assert f"note: {two}: not learnt" in said
    assert re.search(r"accuracy +90\.0 % \(86\.0-93\.1\), guess 50\.0 % +90\.0 %", said) and "best step" not in said
    test, validation = said.partition("Scores, validation")[::2]
    assert "95 % intervals for the choice of rows. Guess: a constant one." in test
    assert "95 % intervals" not in validation and "Guess" not in validation


def test_a_cross_validation_names_its_runs(tmp_path, capsys):
    one = make(tmp_path / "one")
    make(tmp_path / "cross" / "fold-1")
    (tmp_path / "cross" / "cross_validation.json").write_text("{}")
    assert cli.main(["compare", str(one), str(tmp_path / "cross")]) == 2
    assert f"is a cross-validation: compare its runs, {tmp_path / 'cross' / 'fold-1'}" in capsys.readouterr().err
