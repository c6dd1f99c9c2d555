"""Metrics: what sacrebleu says, through `evaluate`, without a network."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import evaluate
import pytest
import sacrebleu

import hftrain.metrics
from hftrain.metrics import NAMES, load_metric
from hftrain.metrics.table import TABLE, higher_is_better

PREDICTIONS = ["The cat sat on the mat.", "There is a dog in the garden", "good morning to you all"]
REFERENCES = ["The cat sat on a mat.", "There is a dog in the yard", "Good morning to you all"]
OTHERS = ["A cat sat on the mat.", "A dog is in the garden", "good morning everybody"]
FOLDER = Path(hftrain.metrics.__file__).parent
TEXT = ("chrf", "exact_match", "sacrebleu")


def test_names():
    folders = {path.parent.name for path in FOLDER.glob("*/*.py")}
    assert set(NAMES) == folders and set(TEXT) < folders


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_a_function_and_a_face(name):
    assert callable(TABLE[name].load())
    face = load_metric(name)
    assert face.key == name and "compute(" in face.description and type(pickle.loads(pickle.dumps(face))) is type(face)


@pytest.mark.parametrize(
    ("result", "higher"),
    [
        ("eval_f1_macro", True),
        ("f1_error", True),  # of a class named "error"
        ("roc_auc_loss", True),
        ("r_squared", True),
        ("overall_precision", True),
        ("expected_calibration_error", False),
        ("bits_per_byte", False),
        ("off_error", False),
        ("rouge_rouge1", True),
        ("charm", None),
        ("pr_curve", None),
    ],
)
def test_which_way_is_better(result, higher):
    assert higher_is_better(result) is higher


def test_scoring_needs_no_evaluate():
    code = """
import sys
sys.modules["evaluate"] = None
from hftrain.metrics import load_metrics
from hftrain.tasks.translation.scoring import score
metrics = load_metrics(["accuracy", "f1"], "single_label_classification", labels=["no", "yes"])
metrics.add([0, 1], [0, 1])
print(metrics.compute()["f1"], round(score(["a cat sat there"], ["a cat sat there"])["chrf"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["1.0", "100"], done.stderr


@pytest.mark.parametrize("options", [{}, {"lowercase": True}, {"tokenize": "char"}])
def test_bleu_is_sacrebleu(options):
    metric = sacrebleu.metrics.BLEU(**options)
    score = metric.corpus_score(PREDICTIONS, [REFERENCES])
    result = load_metric("sacrebleu").compute(predictions=PREDICTIONS, references=REFERENCES, **options)
    assert result == {
        "score": score.score,
        "counts": score.counts,
        "totals": score.totals,
        "precisions": score.precisions,
        "bp": score.bp,
        "sys_len": score.sys_len,
        "ref_len": score.ref_len,
        "signature": str(metric.get_signature()),
    }
    assert 20 < result["score"] < 100 and result["signature"].startswith("nrefs:1|case:")


@pytest.mark.parametrize("options", [{}, {"word_order": 2}])
def test_chrf_is_sacrebleu(options):
    metric = sacrebleu.metrics.CHRF(**options)
    score = metric.corpus_score(PREDICTIONS, [REFERENCES])
    result = load_metric("chrf").compute(predictions=PREDICTIONS, references=REFERENCES, **options)
    assert result["score"] == score.score and result["word_order"] == options.get("word_order", 0)
    assert result["signature"] == str(metric.get_signature())


@pytest.mark.parametrize("name", ["sacrebleu", "chrf"])
def test_several_references(name):
    metric = {"sacrebleu": sacrebleu.metrics.BLEU, "chrf": sacrebleu.metrics.CHRF}[name]()
    several = [list(pair) for pair in zip(REFERENCES, OTHERS, strict=True)]
    result = load_metric(name).compute(predictions=PREDICTIONS, references=several)
    assert result["score"] == metric.corpus_score(PREDICTIONS, [REFERENCES, OTHERS]).score
    assert result["signature"].startswith("nrefs:2")
    with pytest.raises(ValueError, match="every prediction needs the same number of references"):
        load_metric(name).compute(predictions=PREDICTIONS, references=[several[0], several[1], several[2][:1]])


@pytest.mark.parametrize("name", TEXT)
def test_column_of_a_dataset(name):
    rows = datasets.Dataset.from_dict({"target": REFERENCES})
    expected = load_metric(name).compute(predictions=PREDICTIONS, references=REFERENCES)
    assert load_metric(name).compute(predictions=PREDICTIONS, references=rows["target"]) == expected


def test_exact_match():
    result = load_metric("exact_match").compute(predictions=["a", "b", "c ", "D"], references=["a", "b", "c", "d"])
    assert result == {"exact_match": 0.5}


def test_in_batches():
    metric = load_metric("sacrebleu")
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        metric.add_batch(predictions=[prediction], references=[reference])
    assert metric.compute() == load_metric("sacrebleu").compute(predictions=PREDICTIONS, references=REFERENCES)


@pytest.mark.parametrize("name", TEXT)
def test_refuses_nothing_and_unequal(name):
    with pytest.raises(ValueError, match="nothing to score: 0 predictions"):
        load_metric(name).compute(predictions=[], references=[])
    with pytest.raises(ValueError, match=r"Mismatch in the number of predictions \(3\) and references \(2\)"):
        load_metric(name).compute(predictions=PREDICTIONS, references=REFERENCES[:2])


@pytest.mark.parametrize("name", TEXT)
def test_loads_by_path_and_from_a_copy(name, tmp_path):
    expected = load_metric(name).compute(predictions=PREDICTIONS, references=REFERENCES)
    shutil.copytree(FOLDER / name, tmp_path / name)
    for path in (FOLDER / name, tmp_path / name / f"{name}.py"):
        assert evaluate.load(str(path)).compute(predictions=PREDICTIONS, references=REFERENCES) == expected
        assert load_metric(str(path)).compute(predictions=PREDICTIONS, references=REFERENCES) == expected


def test_ours_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    load_metric("sacrebleu").compute(predictions=PREDICTIONS, references=REFERENCES)
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == []


def test_unknown():
    with pytest.raises(
        ValueError, match=r"metric 'blue' could not be loaded: (.|\n)*These work without a network: " + ", ".join(NAMES)
    ):
        load_metric("blue")
