"""Metrics batch by batch: what is refused and how it is said, foreign metrics, and two processes that know the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import hftrain.metrics
from hftrain.metrics import FITTING, check_names, load_metric, load_metrics, rehearse
from tests.programs import launcher, run

SINGLE, MULTI, REGRESSION, TAGS, ANSWERS = FITTING
FOLDER = Path(hftrain.metrics.__file__).parent


def example(task: str, count: int = 60) -> tuple:
    """Predictions, references and scores in the task's shapes."""
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.ones(3), count)
    right = draw.integers(0, 3, count)
    tags, texts = ["O", "B-LOC", "I-LOC", "B-PER"], ["", "the cat", "a dog", "cat and dog"]
    return {
        SINGLE: (probabilities.argmax(1), right, probabilities),
        MULTI: (probabilities.round().astype(int), np.eye(3, dtype=int)[right], probabilities),
        REGRESSION: (draw.normal(size=count), draw.normal(size=count), None),
        TAGS: ([[tags[i], "O"] for i in right], [[tags[i % 4], "O"] for i in range(count)], None),
        ANSWERS: ([texts[i] for i in right], [[texts[i % 4]] for i in range(count)], probabilities[:, 0]),
    }[task]


LABELS = {SINGLE: ["no", "maybe", "yes"], MULTI: ["no", "maybe", "yes"]}


def loaded(task: str, names: list[str] | None = None, **options):
    together = [name for name in FITTING[task] if name != "squad"]  # its f1 is also the name of squad_v2's
    return load_metrics(names or together, task, labels=LABELS.get(task, ()), **options)


@pytest.mark.parametrize("task", FITTING)
def test_size_of_the_batches_changes_nothing(task):
    found = []
    for size in (60, 1, 2, 7):
        metrics = loaded(task)
        for begin in range(0, 60, size):
            metrics.add(*(each if each is None else each[begin : begin + size] for each in example(task)))
        found.append(metrics.compute())
    assert len(found[0]) >= len(metrics.measures) and all(isinstance(value, float | int) for value in found[0].values())
    for each in found[1:]:
        assert each == pytest.approx(found[0], rel=1e-12)


@pytest.mark.parametrize("task", FITTING)
def test_nothing_to_score(task):
    with pytest.raises(ValueError, match="nothing to score: 0 predictions"):
        loaded(task).compute()


@pytest.mark.parametrize(
    ("task", "name", "batch", "message"),
    [
        (SINGLE, "accuracy", ([0, 1], [1]), "the lengths differ: 2 predictions, 1 references"),
        (SINGLE, "accuracy", ([[0.1, 0.9]], [1]), r"predictions must be one class for each example.*\(1, 2\)"),
        (SINGLE, "f1", ([0.5, 1], [0, 1]), "predictions must be class numbers, but row 0 has 0.5"),
        (SINGLE, "roc_auc", ([0, 1], [0, 1]), "a ranking metric needs scores"),
        (
            SINGLE,
            "roc_auc",
            ([0], [3], [[0.1, 0.2, 0.7]]),
            "a reference is class 3, but the scores have the classes 0 to 2",
        ),
        (
            SINGLE,
            "roc_auc",
            ([0, 1], [0, 1], [[0.1, 0.2, 0.7], [0.1, float("nan"), float("nan")]]),
            r"2 of 6 scores are not finite \(the first in row 1: \[0.1 nan nan\]\)",
        ),
        (
            SINGLE,
            "expected_calibration_error",
            ([0], [0], [[3.0, -2.0, 0]]),
            "scores from -2 to 3 are not probabilities",
        ),
        (SINGLE, "expected_calibration_error", ([0], [0]), "the calibration error needs scores"),
        (MULTI, "f1", ([[0, 1, 2]], [[0, 1, 1]]), "predictions with several labels must be 0 or 1, but one is 2"),
        (MULTI, "f1", ([1], [0]), r"\(examples, labels\) of 0 and 1, but their shape is \(1,\)"),
        (MULTI, "f1", ([[0, 1]], [[0, 1, 1]]), r"predictions \(1, 2\) and references \(1, 3\) have different shapes"),
        (MULTI, "roc_auc", ([[0, 1, 0]], [[0, 1, 1]], [[0.5, 0.5]]), r"scores \(1, 2\) do not fit references \(1, 3\)"),
        (REGRESSION, "mse", ([float("inf")], [1.0]), r"1 of 1 predictions are not finite \(the first in row 0: inf\)"),
        (REGRESSION, "pearsonr", ([[1.0]], [1.0]), "predictions must be one number for each example"),
        (REGRESSION, "mse", (["a"], [1.0]), "predictions must be numbers"),
        (TAGS, "seqeval", ([["NN"]], [["O"]]), "tag 'NN' of token 0 is not one of IOB2 and BIOES: B-X, I-X, O"),
        (TAGS, "seqeval", ([["O"]], [["O", "O"]]), "sentence 0 has 1 predicted tags but 2 references"),
        (ANSWERS, "squad", ([""], [[]]), "a question has no answer: score this data set with squad_v2"),
    ],
)
def test_refused_when_added(task, name, batch, message):
    with pytest.raises(ValueError, match=message):
        loaded(task, [name]).add(*batch)


@pytest.mark.parametrize(
    ("task", "name", "references", "message"),
    [
        (
            SINGLE,
            "roc_auc",
            [0, 1, 1],
            "not defined: none of 3 references is 'yes'. Evaluate on rows of all classes, or",
        ),
        (SINGLE, "average_precision", [2, 2], "not defined: none of 2 references is 'no'"),
        (MULTI, "roc_auc", [[0, 1, 1], [1, 1, 0]], "not defined: every one of 2 references is 'maybe'"),
        (REGRESSION, "pearsonr", [3.0, 3.0], "Pearson's correlation is not defined: all 2 references are 3"),
        (REGRESSION, "spearmanr", [3.0, 3.0], "Spearman's correlation is not defined"),
        (REGRESSION, "r_squared", [3.0], "R squared is not defined: there is only one reference"),
        (TAGS, "seqeval", [["NN", "VB"]], "tag 'NN' of token 0"),
        (ANSWERS, "squad", [["a"], []], "score this data set with squad_v2"),
    ],
)
def test_what_the_references_make_undefined_is_told_before_training(task, name, references, message):
    metrics = loaded(task, [name])
    with pytest.raises(ValueError, match=message):
        metrics.rehearse(references)
    _, right, _ = example(task)
    metrics.rehearse(right)
    metrics.add(*example(task))  # nothing of the rehearsal is left
    once = loaded(task, [name])
    once.add(*example(task))
    assert metrics.compute() == once.compute()


def test_rehearsal_names_the_split_and_what_cannot_be_the_best(tmp_path):
    splits = {"validation": [0, 1, 2], "test": [0, 1, 1]}
    labels = ["no", "maybe", "yes"]
    with pytest.raises(ValueError, match=r"metrics of the test rows: .* none of 3 references is 'yes'"):
        rehearse(["roc_auc"], SINGLE, splits, labels=labels)
    with pytest.raises(ValueError, match=r"'acuracy' could not be loaded: (.|\n)*Did you mean 'accuracy'"):
        rehearse(["acuracy"], SINGLE, splits, labels=labels)
    rehearse(["accuracy"], SINGLE, splits, labels=labels, best="eval_accuracy")
    with pytest.raises(ValueError, match="metric_for_best_model='f1' is not evaluated; the metrics are loss, accuracy"):
        rehearse(["accuracy"], SINGLE, splits, labels=labels, best="f1")
    tags = {"validation": [["B-X", "O"]], "test": [["O"]]}
    rehearse(["seqeval"], TAGS, tags, best="f1")
    with pytest.raises(ValueError, match="'f2' is not evaluated; the metrics are loss, precision, recall"):
        rehearse(["seqeval"], TAGS, tags, best="f2")
    (tmp_path / "off").mkdir()
    (tmp_path / "off" / "off.py").write_text(FOREIGN)
    rehearse(["accuracy", str(tmp_path / "off")], SINGLE, splits, labels=labels, best="off_mean")


def test_names():
    check_names(["accuracy", "f1", "roc_auc", "somebody/metric"], SINGLE)
    with pytest.raises(
        ValueError, match="metric 'f1' does not fit regression: choose from mse, mae, r_squared, pearsonr"
    ):
        check_names(["mse", "f1"], REGRESSION)
    with pytest.raises(
        ValueError, match="metric 'sacrebleu' does not fit token_classification: choose from seqeval, acc"
    ):
        check_names(["sacrebleu"], TAGS)
    with pytest.raises(ValueError, match="squad and squad_v2 both give f1"):
        check_names(["squad", "squad_v2"], ANSWERS)
    with pytest.raises(ValueError, match="metric 'acuracy' could not be loaded"):
        load_metrics(["acuracy"], SINGLE, labels=["no", "yes"])
    with pytest.raises(ValueError, match=r"scheme='IOB1' is not one of IOB2, IOBES \(BIOES\) and None"):
        load_metrics(["seqeval"], TAGS, scheme="IOB1")


def test_states_stay_small():
    metrics = loaded(SINGLE, ["accuracy", "f1", "matthews_correlation", "expected_calibration_error"])
    for _ in range(100):
        metrics.add(*example(SINGLE))
    assert sum(metrics.states["counts"].pairs.values()) == 6000 and len(metrics.states["counts"].pairs) == 9
    assert metrics.states["bins"].sums.shape == (3, 15) and set(metrics.states) == {"counts", "bins"}


def test_report_keeps_what_it_draws():
    assert set(loaded(SINGLE, ["accuracy"], report=True).states) == {"counts", "bins", "scores"}
    many = load_metrics(["accuracy"], SINGLE, labels=[str(each) for each in range(151)], report=True)
    assert set(many.states) == {"counts", "bins"}
    assert set(loaded(REGRESSION, ["mse"], report=True).states) == {"moments"}


FOREIGN = '''"""How far off, on average, and how often."""
import datasets
import evaluate
class Off(evaluate.Metric):
    def _info(self):
        features = datasets.Features(predictions=datasets.Value("int64"), references=datasets.Value("int64"))
        return evaluate.MetricInfo(description="", citation="", features=features)
    def _compute(self, predictions, references):
        off = [abs(p - r) for p, r in zip(predictions, references)]
        return {"mean": sum(off) / len(off), "share": sum(map(bool, off)) / len(off), "kind": "made up"}
'''


def test_a_path_goes_to_evaluate(tmp_path):
    (tmp_path / "off").mkdir()
    (tmp_path / "off" / "off.py").write_text(FOREIGN)
    metrics = loaded(SINGLE, ["accuracy", str(tmp_path / "off")])
    metrics.rehearse([0, 1, 2])
    metrics.add(np.array([0, 2]), np.array([0, 1]))
    metrics.add([1, 0], [1, 2])
    assert metrics.compute() == {"accuracy": 0.5, "off_mean": 0.75, "off_share": 0.5}
    (tmp_path / "off" / "off.py").write_text(FOREIGN.replace('"mean": sum(off) / len(off), "share"', '"share"'))
    metrics = loaded(SINGLE, [str(tmp_path / "off")])
    metrics.add([1, 0], [1, 2])
    assert metrics.compute() == {"off": 0.5}


@pytest.mark.parametrize("name", ["f1", "roc_auc", "seqeval", "squad_v2"])
def test_modules_load_from_a_copy(name, tmp_path):
    shutil.copytree(FOLDER / name, tmp_path / name)
    given = {
        "f1": {"predictions": [1, 0, 1], "references": [1, 1, 0]},
        "roc_auc": {"prediction_scores": [0.1, 0.9, 0.3], "references": [0, 1, 1]},
        "seqeval": {"predictions": [["B-LOC", "O"]], "references": [["B-LOC", "I-LOC"]]},
        "squad_v2": {
            "predictions": [{"id": "1", "prediction_text": "a cat", "no_answer_probability": 0.2}],
            "references": [{"id": "1", "answers": {"text": ["cat"], "answer_start": [2]}}],
        },
    }[name]
    assert load_metric(str(tmp_path / name)).compute(**given) == load_metric(name).compute(**given)


def test_answers_are_told_by_their_ids():
    right = {"text": ["cat"], "answer_start": [2]}
    predictions = [{"id": name, "prediction_text": "cat"} for name in ("1", "2")]
    with pytest.raises(ValueError, match="2 ids have only a prediction or only a reference, such as '2'"):
        load_metric("squad").compute(predictions=predictions, references=[{"id": i, "answers": right} for i in "13"])
    with pytest.raises(ValueError, match="an id occurs twice: 2 predictions have 2 ids, 2 references 1"):
        load_metric("squad").compute(predictions=predictions, references=[{"id": "1", "answers": right}] * 2)


WORKER = """
import json, sys
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from pathlib import Path
from tests.metrics.test_metrics_streaming import FITTING, example, loaded

accelerator = Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")])
found = {}
for task in FITTING:
    metrics = loaded(task)
    share = slice(0, 37) if accelerator.is_main_process else slice(37, None)  # in order: squad_v2 settles ties by it
    metrics.add(*(each if each is None else each[share] for each in example(task)))
    metrics.gather(gather_object)
    found[task] = metrics.compute()
results = {"processes": accelerator.num_processes, "found": found}
Path(sys.argv[1], str(accelerator.process_index)).write_text(json.dumps(results))
accelerator.end_training()
"""


@pytest.mark.slow
def test_two_processes_know_what_one_knows(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    run(*launcher(), tmp_path / "worker.py", tmp_path)
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in (0, 1))
    assert first == second and first["processes"] == 2
    for task in FITTING:
        metrics = loaded(task)
        metrics.add(*example(task))
        assert first["found"][task] == pytest.approx(metrics.compute(), rel=1e-9, abs=1e-9), task
