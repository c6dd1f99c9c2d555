"""Cross-validation: a run for each fold, their summary, and how it goes on; what a card says it was tested on."""

import json
import math
import sys
from collections import Counter

import pytest

from hftrain.config import ConfigError, DataConfig
from hftrain.data.splits import load_splits
from hftrain.tasks import classification
from hftrain.tasks.classification import ClassificationConfig
from hftrain.tasks.pretraining.config import PretrainingConfig
from hftrain.train import folds
from hftrain.train.recipe import run
from recipes import classify as recipe

WORDS = {"animal": ["dog", "cat"], "colour": ["red", "blue"], "food": ["bread", "rice"]}
SIZE = ["--model_config.hidden_size", "16", "--model_config.intermediate_size", "24"]
SIZE += ["--model_config.num_attention_heads", "2", "--vocab_size", "300", "--eval_steps", "0", "--save_steps", "0"]


def write(path, count, kinds=tuple(WORDS)):
    rows = [
        {"text": f"the {WORDS[kind][n % 2]} of number {n}", "label": kind}
        for n in range(count)
        for kind in [kinds[n % len(kinds)]]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_interval_of_a_mean():
    for freedom, wanted in ((1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (100, 1.9840)):
        assert folds.student_t(freedom) == pytest.approx(wanted, abs=2e-4)
    results = [{"test_f1": value, "test_report": "x", "train_loss": 1.0} for value in (0.8, 0.9, 0.85, 0.7, 0.75)]
    (scores,) = folds.summarize(results).values()
    half = 2.7764 * math.sqrt(0.00625) * math.sqrt(1 / 5 + 1 / 4)
    assert scores == pytest.approx({"mean": 0.8, "spread": 0.0790569, "low": 0.8 - half, "high": 0.8 + half}, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "values", "task", "ends"),
    [
        ("test_accuracy", [0.9, 1.0, 1.0], "", (None, 1.0)),
        ("test_pearsonr", [-0.9, 0.9, 0.8], "", (-1.0, 1.0)),
        ("test_loss", [0.1, 2.0, 3.0], "", (None, None)),
        ("test_mse", [0.1, 2.0, 3.0], "", (0.0, None)),
        ("test_f1", [60.0, 99.0, 98.0], "question-answering", (None, 100.0)),
    ],
)
def test_an_interval_stays_within_the_range_of_its_score(name, values, task, ends):
    (found,) = folds.summarize([{name: value, "task": task} for value in values]).values()
    for end, place in zip(ends, ("low", "high"), strict=True):
        if end is not None:
            assert found[place] == end
    assert found["low"] < found["mean"] < found["high"]


def test_scores_of_the_folds_are_summed_up(tmp_path, monkeypatch, capsys):
    """With a constant guess in place of a model."""
    out = tmp_path / "out"
    words = ["classify", "--train_file", write(tmp_path / "rows.jsonl", 90), "--output_dir", str(out), "--folds", "3"]

    def guess(config):
        rows = classification.load_labelled(config, seed=config.seed)
        assert config.output_dir == str(out / f"fold-{config.fold}") and config.run_name == f"try-fold-{config.fold}"
        scores = {"test_accuracy": Counter(rows["test"]["label"])["food"] / len(rows["test"]), "test_words": "none"}
        return scores | {"baseline": {"test_accuracy": 0.5}, "remarks": ["the model has not learnt"]}

    monkeypatch.setattr(sys, "argv", [*words, "--run_name", "try"])
    outcome = run(guess, ClassificationConfig)
    third = {"mean": 1 / 3, "spread": 0}
    assert outcome["scores"] == {"test_accuracy": pytest.approx(third)}
    assert json.loads((out / folds.SCORES).read_text()) == outcome
    printed = capsys.readouterr().out
    assert "test_accuracy: 33.3 % (all folds agree), spread 0.0 %, a constant guess has 50.0 %" in printed
    assert "note: fold-2: the model has not learnt" in printed and "3 folds" in printed
    page = (out / "report.html").read_text()
    assert "fold-2: the model has not learnt" in page and "a constant guess has 50.0&nbsp;%" in page
    assert "Nadeau" in page and "rows.jsonl" in page
    sys.argv += ["--fold", "2"]
    assert run(lambda config: {"fold": config.fold}, ClassificationConfig) == {"fold": 2}


@pytest.mark.slow  # three runs with their reports
def test_each_fold_is_a_run_and_all_of_them_go_on(tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = ["classify", "--train_file", write(tmp_path / "rows.jsonl", 60), "--output_dir", str(out), "--folds", "2"]
    monkeypatch.setattr(sys, "argv", [*words, *SIZE, "--max_steps", "2"])
    seen = []

    def stopped(config):
        seen.append(config.fold)
        if len(seen) == 2:
            raise SystemExit(75)
        return recipe.main(config)

    with pytest.raises(SystemExit):
        run(stopped, ClassificationConfig)
    assert (out / "fold-1" / "model.safetensors").is_file() and not (out / folds.SCORES).exists()
    first = json.loads((out / "fold-1" / "all_results.json").read_text())

    sys.argv += ["--resume_from_checkpoint", "auto"]
    outcome = run(recipe.main, ClassificationConfig)
    assert [path.name for path in sorted(out.glob("fold-*"))] == ["fold-1", "fold-2"]
    saved = json.loads((out / folds.SCORES).read_text())
    assert saved["folds"] == 2 and saved["scores"] == outcome["scores"]
    assert saved["by_fold"][0]["test_accuracy"] == first["test_accuracy"]
    assert saved["by_fold"][0]["total_steps"] == 2
    values = [result["test_accuracy"] for result in saved["by_fold"]]
    assert saved["scores"]["test_accuracy"]["mean"] == pytest.approx(sum(values) / 2)


def test_the_rows_of_the_folds(tmp_path):
    path = write(tmp_path / "rows.jsonl", 90)
    columns = {"text": "text", "label": "label"}
    tested = []
    for fold in (1, 2, 3):
        config = DataConfig(train_file=path, folds=3, fold=fold)
        rows = load_splits(config, columns=columns, stratify="label")
        assert [len(rows[name]) for name in ("train", "validation", "test")] == [57, 3, 30]
        assert set(Counter(rows["test"]["label"]).values()) == {10}
        assert all(rows[name].leaks.inputs == 0 for name in ("validation", "test"))
        tested += rows["test"]["text"]
    assert len(tested) == len(set(tested)) == 90
    with pytest.raises(ValueError, match=r"main\(parse\(Config\)\) by run\(main, Config\)"):
        load_splits(DataConfig(train_file=path, folds=3), columns=columns)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 1}, "must be int of at least 2"),
        ({"fold": 1}, "fold and folds: fold 1 needs folds"),
        ({"folds": 3, "fold": 4}, "fold and folds: fold 4 needs folds"),
        ({"folds": 3, "test_file": "t"}, "folds and test_file: contradict each other"),
        ({"folds": 3, "push_to_hub": True}, "each fold has its own model"),
        ({"folds": 3, "resume_from_checkpoint": "out/checkpoint-3"}, "set fold too"),
    ],
)
def test_settings_that_do_not_go_with_folds(settings, message):
    with pytest.raises(ConfigError, match=message):
        ClassificationConfig(train_file="a", **settings)


def test_pretraining_has_no_folds():
    with pytest.raises(ConfigError, match="folds: needs a test set"):
        PretrainingConfig(train_file="a", folds=3)


def test_scores_are_attributed_to_the_file_they_are_of(tmp_path, caplog):
    rows = [write(tmp_path / f"{name}.jsonl", 45) for name in ("first", "second")]
    tests = [write(tmp_path / f"{name}.jsonl", 15) for name in ("exam", "other")]
    odd = {"text": "the dog", "label": "Animal"}
    (tmp_path / "first.jsonl").open("a").write((json.dumps(odd) + "\n") * 9)
    model = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    config = ClassificationConfig(
        train_file=rows, test_file=tests, validation_file=tests[1], output_dir=str(tmp_path / "out"), max_steps=1,
        model_config=model, vocab_size=300, eval_steps=0, save_steps=0,
    )  # fmt: skip
    recipe.main(config)
    card, page = ((tmp_path / "out" / name).read_text() for name in ("README.md", "report.html"))
    line = next(line for line in card.splitlines() if line.startswith("On the test split of"))
    assert "exam.jsonl" in line and "other.jsonl" in line and "first" not in line
    assert "name: " in card and "exam.jsonl" in card.split("---")[1]
    assert "rows of " in card and "By source" in page
    assert "classes of the training rows: animal 30, colour 30, food 30, Animal 9" in caplog.text
    assert (
        "'animal' (45) and 'Animal' (9) differ only in case, blanks, invisible characters or Unicode form"
        in caplog.text
    )
    assert "label Animal" in card
