"""Every metric equals its reference to 1e-9: scikit-learn, SciPy, seqeval, the rules of the SQuAD scripts.

In one piece through `load_metric`, and through `load_metrics` in batches that three parts saw and that were merged.
"""

from collections import Counter

import numpy as np
import pytest
import scipy.stats
from seqeval.metrics import accuracy_score, classification_report
from seqeval.scheme import IOB2, IOBES
from sklearn import metrics as sklearn

from hftrain.metrics import FITTING, entities, load_metric, load_metrics, ranking

pytestmark = pytest.mark.unit

SINGLE, MULTI = "single_label_classification", "multi_label_classification"
AVERAGES = ["macro", "micro", "weighted", None]
COUNTED = {"precision": sklearn.precision_score, "recall": sklearn.recall_score, "f1": sklearn.f1_score}
RANKED = {"roc_auc": sklearn.roc_auc_score, "average_precision": sklearn.average_precision_score}
UNDEFINED = pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning", "ignore::UserWarning")


def close(value):
    return pytest.approx(value, rel=1e-9, abs=1e-9)


def in_batches(names, task, predictions, references, scores=None, **options):
    """Computed by three `Metrics` together that saw every third batch each, of 1, 7, 0 or 3 examples."""
    parts = [load_metrics(names, task, **options) for _ in range(3)]
    begin = number = 0
    while begin < len(references):
        chosen = slice(begin, begin + (1, 7, 0, 3)[number % 4])
        parts[number % 3].add(predictions[chosen], references[chosen], None if scores is None else scores[chosen])
        begin, number = chosen.stop, number + 1
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    return parts[2].compute()


# --- classes


def random_classes(seed, count=300, classes=5):
    return np.random.default_rng(seed).integers(0, classes, count)


CLASSES = {
    "random": (random_classes(0), random_classes(1)),
    "mostly right": (np.where(random_classes(2) > 0, random_classes(3), 0), random_classes(3)),
    "two": (random_classes(4, classes=2), random_classes(5, classes=2)),
    "never predicted": (np.zeros(50, int), np.arange(50) % 4),
    "never true": (np.arange(50) % 4, np.ones(50, int)),
    "one class": (np.ones(9, int), np.ones(9, int)),
    "never right": (np.zeros(9, int), np.ones(9, int)),
    "one example": (np.array([1]), np.array([0])),
}


@UNDEFINED
@pytest.mark.parametrize(("predictions", "references"), CLASSES.values(), ids=CLASSES)
def test_classes(predictions, references):
    labels = list("abcde")
    names = [name for name in FITTING[SINGLE] if not name.startswith(("roc", "average", "expected", "top"))]
    merged = in_batches(names, SINGLE, predictions, references, labels=labels)
    both = {"predictions": predictions, "references": references}
    for name, function in (("accuracy", sklearn.accuracy_score), ("matthews_correlation", sklearn.matthews_corrcoef)):
        oracle = function(references, predictions)
        assert load_metric(name).compute(**both) == close({name: oracle}) and merged[name] == close(oracle)
    matrix = load_metric("confusion_matrix").compute(**both)["confusion_matrix"]
    assert matrix.tolist() == sklearn.confusion_matrix(references, predictions).tolist()
    for name, function in COUNTED.items():
        for average in AVERAGES:
            oracle = function(references, predictions, average=average)
            assert load_metric(name).compute(**both, average=average)[name] == close(oracle), (name, average)
            if average:
                assert merged[f"{name}_{average}"] == close(oracle), (name, average)
        oracle = function(references, predictions, labels=range(5), average=None)
        assert [merged[f"{name}_{label}"] for label in labels] == close(oracle)
        assert merged[name] == merged[f"{name}_macro"]


@UNDEFINED
@pytest.mark.parametrize("kind", ["two", "one class", "never right", "one example"])
def test_two_classes(kind):
    predictions, references = CLASSES[kind]
    merged = in_batches(list(COUNTED), SINGLE, predictions, references, labels=["no", "yes"])
    for name, function in COUNTED.items():
        oracle = function(references, predictions)
        assert merged[name] == close(oracle)
        assert load_metric(name).compute(predictions=predictions, references=references)[name] == close(oracle)
    oracle = sklearn.f1_score(references, predictions, pos_label=0)
    if set(references) | set(predictions) == {0, 1}:
        given = {"predictions": predictions, "references": references, "pos_label": 0}
        assert load_metric("f1").compute(**given)["f1"] == close(oracle)


@UNDEFINED
@pytest.mark.parametrize("share", [0.4, 0.02, 0.0, 1.0])
def test_several_labels(share):
    draw = np.random.default_rng(6)
    references, predictions = ((draw.random((200, 4)) < share).astype(int) for _ in range(2))
    labels = list("abcd")
    names = [name for name in FITTING[MULTI] if not name.startswith(("roc", "average", "expected", "top"))]
    merged = in_batches(names, MULTI, predictions, references, labels=labels)
    both = {"predictions": predictions.tolist(), "references": references.tolist()}
    oracle = sklearn.accuracy_score(references, predictions)
    assert load_metric("accuracy", "multilabel").compute(**both) == close({"accuracy": oracle})
    assert merged["accuracy"] == close(oracle)
    for name, function in COUNTED.items():
        for average in AVERAGES:
            oracle = function(references, predictions, average=average)
            assert load_metric(name, "multilabel").compute(**both, average=average)[name] == close(oracle)
            found = merged[f"{name}_{average}"] if average else [merged[f"{name}_{label}"] for label in labels]
            assert found == close(oracle), (name, average)


def test_matthews_of_many_examples():
    state = load_metrics(["matthews_correlation"], SINGLE, labels=["no", "yes"])
    state.states["counts"].pairs = Counter({(0, 0): 4_000_000, (0, 1): 30_000, (1, 0): 70_000, (1, 1): 5_000_000})
    table = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], [400, 3, 7, 500], axis=0)
    assert state.compute()["matthews_correlation"] == close(sklearn.matthews_corrcoef(*table.T))


# --- scores


def probabilities(classes, count=400, seed=7, digits=9):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), count).round(digits)


@pytest.mark.parametrize("digits", [9, 1, 0], ids=["distinct", "ties", "many ties"])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_ranking_of_two_classes(digits, kind):
    references, scores = random_classes(8, 400, 2), probabilities(2, digits=digits).astype(kind)
    merged = in_batches(list(RANKED), SINGLE, references, references, scores, labels=["no", "yes"])
    given = {"prediction_scores": scores[:, 1], "references": references}
    for name, function in RANKED.items():
        oracle = function(references, scores[:, 1])
        assert merged[name] == close(oracle) and load_metric(name).compute(**given)[name] == close(oracle)
    curve = load_metric("roc_curve").compute(**given)
    fpr, tpr, thresholds = sklearn.roc_curve(references, scores[:, 1], drop_intermediate=False)
    assert curve["fpr"] == close(fpr) and curve["tpr"] == close(tpr) and curve["thresholds"] == close(thresholds)
    curve = load_metric("pr_curve").compute(**given)
    precision, recall, thresholds = sklearn.precision_recall_curve(references, scores[:, 1])
    assert curve["precision"] == close(precision) and curve["recall"] == close(recall)
    assert curve["thresholds"] == close(thresholds)


@pytest.mark.parametrize("digits", [9, 1], ids=["distinct", "ties"])
def test_ranking_of_classes(digits):
    references, scores = random_classes(9, 400, 4) % 3, probabilities(3)
    scores = scores.round(digits) if digits == 9 else np.eye(3)[scores.argmax(1)]
    names = [name for name in FITTING[SINGLE] if name.startswith(("roc", "average"))]
    merged = in_batches(names, SINGLE, references, references, scores, labels=list("abc"))
    binary = np.eye(3, dtype=int)[references]
    for name, function in RANKED.items():
        for average in AVERAGES:
            given = {"prediction_scores": scores.tolist(), "references": references, "average": average}
            oracle = function(binary, scores, average=average)
            assert load_metric(name, "multiclass").compute(**given)[name] == close(oracle)
            found = merged[f"{name}_{average}"] if average else [merged[f"{name}_{label}"] for label in "abc"]
            assert found == close(oracle), (name, average)
    assert merged["roc_auc"] == close(sklearn.roc_auc_score(references, scores, multi_class="ovr"))


def test_ranking_of_labels():
    draw = np.random.default_rng(10)
    references, scores = (draw.random((300, 4)) < 0.2).astype(int), draw.random((300, 4)).round(2)
    names = [name for name in FITTING[MULTI] if name.startswith(("roc", "average"))]
    merged = in_batches(names, MULTI, references, references, scores, labels=list("abcd"))
    for name, function in RANKED.items():
        given = {"prediction_scores": scores.tolist(), "references": references.tolist()}
        assert load_metric(name, "multilabel").compute(**given)[name] == close(function(references, scores))
        for average in AVERAGES[:-1]:
            assert merged[f"{name}_{average}"] == close(function(references, scores, average=average))


def expected_calibration_error(confidence, right, bins=15):
    """Equation 3 of Guo et al. (2017), bin after bin."""
    error = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [i for i, each in enumerate(confidence) if low < each <= high or (number == 0 and each == 0)]
        if inside:
            gap = sum(right[i] for i in inside) / len(inside) - sum(confidence[i] for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(gap)
    return error


@pytest.mark.parametrize("classes", [2, 6])
def test_calibration(classes):
    references, scores = random_classes(11, 400, classes), probabilities(classes)
    oracle = expected_calibration_error(scores.max(1).tolist(), (scores.argmax(1) == references).tolist())
    name = "expected_calibration_error"
    assert in_batches([name], SINGLE, references, references, scores, labels=list("abcdef"))[name] == close(oracle)
    metric = load_metric(name, "multiclass").compute(prediction_scores=scores.tolist(), references=references, bins=10)
    oracle = expected_calibration_error(scores.max(1).tolist(), (scores.argmax(1) == references).tolist(), bins=10)
    assert metric[name] == close(oracle) and metric["count"].sum() == 400 and len(metric["edges"]) == 11


def test_calibration_of_labels_and_of_degenerate_scores():
    draw = np.random.default_rng(12)
    references, scores = (draw.random((100, 3)) < 0.3).astype(int), draw.random((100, 3))
    oracle = expected_calibration_error(scores.ravel().tolist(), references.ravel().tolist())
    name = "expected_calibration_error"
    assert in_batches([name], MULTI, references, references, scores, labels=list("abc"))[name] == close(oracle)
    for scores, references, error in (([0.0, 0.0], [0, 0], 0), ([1.0, 1.0], [1, 0], 0.5), ([0.4], [1], 0.6)):
        assert load_metric(name).compute(prediction_scores=scores, references=references)[name] == close(error)


# --- numbers

NUMBERS = {
    "random": np.random.default_rng(13).normal(size=(2, 300)),
    "correlated": np.random.default_rng(14).multivariate_normal([3, -2], [[1, 0.9], [0.9, 1]], 300).T,
    "ties": np.random.default_rng(15).integers(0, 4, (2, 300)).astype(float),
    "far from zero": 1e7 + np.random.default_rng(16).normal(size=(2, 300)),
    "large": 1e150 * np.random.default_rng(17).normal(size=(2, 30)),
    "two": np.array([[1.0, 2.0], [5.0, 3.0]]),
}


@pytest.mark.parametrize(("predictions", "references"), NUMBERS.values(), ids=NUMBERS)
def test_regression(predictions, references):
    oracles = {
        "mse": sklearn.mean_squared_error(references, predictions),
        "mae": sklearn.mean_absolute_error(references, predictions),
        "r_squared": sklearn.r2_score(references, predictions),
        "pearsonr": scipy.stats.pearsonr(predictions, references).statistic,
        "spearmanr": scipy.stats.spearmanr(predictions, references).statistic,
    }
    assert in_batches(list(oracles), "regression", predictions, references) == close(oracles)
    for name, oracle in oracles.items():
        assert load_metric(name).compute(predictions=predictions, references=references)[name] == close(oracle)


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6])
def test_correlation_with_constant_predictions(constant):
    predictions, references = np.full(100, constant), np.arange(100.0)
    found = in_batches(["pearsonr", "spearmanr"], "regression", predictions, references)
    assert np.isnan([*found.values(), scipy.stats.pearsonr(predictions, references)[0]]).all()
    with pytest.raises(ValueError, match="correlation is not defined: all 100 references are"):
        in_batches(["pearsonr"], "regression", references, predictions)


# --- entities

PREFIXES = {None: "BIOES", IOB2: "BIO", IOBES: "BIOES"}


def random_tags(letters, types, seed, sentences=60):
    draw = np.random.default_rng(seed)
    choose = lambda choices: choices[draw.integers(len(choices))]  # noqa: E731
    tag = lambda letter: "O" if letter == "O" else f"{letter}-{choose(types)}"  # noqa: E731
    return [[tag(choose(letters)) for _ in range(draw.integers(1, 12))] for _ in range(sentences)]


def altered(sentences, letters, types, share):
    draw = np.random.default_rng(99)
    others = random_tags(letters, types, 98, len(sentences) * 12)
    return [
        [others[draw.integers(len(others))][0] if draw.random() < share else tag for tag in tags] for tags in sentences
    ]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("types", [["LOC"], ["LOC", "PER", "work-of-art"]], ids=["one type", "three types"])
@pytest.mark.parametrize("scheme", PREFIXES, ids=lambda scheme: scheme.__name__ if scheme else "lenient")
def test_entities_are_seqeval(scheme, types):
    letters = PREFIXES[scheme]
    right = random_tags(letters, types, 18)
    for other in (
        altered(right, letters, types, 0.2),
        altered(right, letters, types, 1),
        right,
        [["O"] * len(tags) for tags in right],
    ):
        for predictions, references in ((other, right), (right, other)):
            options = {"scheme": scheme.__name__, "mode": "strict"} if scheme else {}
            found = load_metric("seqeval").compute(predictions=predictions, references=references, **options)
            strict = {"scheme": scheme, "mode": "strict"} if scheme else {}
            report = classification_report(references, predictions, output_dict=True, zero_division=0, **strict)
            report = {name: [*each.values()] for name, each in report.items()}
            overall = report["micro avg"]
            assert [found[f"overall_{name}"] for name in ("precision", "recall", "f1")] == close(overall[:3])
            assert found["overall_accuracy"] == close(accuracy_score(references, predictions))
            names = {name for name in report if not name.endswith(" avg")}
            assert {name for name in found if not name.startswith("overall_")} == names
            for name in names:
                assert [*found[name].values()] == close(report[name])
            merged = in_batches(
                ["seqeval", "accuracy"], "token_classification", predictions, references, scheme=options.get("scheme")
            )
            assert merged.pop("accuracy") == merged["overall_accuracy"]
            assert merged == close({name: each for name, each in found.items() if name.startswith("overall_")})


def test_entities():
    assert entities.entities(["I-LOC", "I-LOC", "B-LOC", "I-PER", "O"]) == [("LOC", 0, 1), ("LOC", 2, 2), ("PER", 3, 3)]
    assert entities.entities(["I-LOC", "I-LOC", "B-LOC", "I-PER", "O"], "IOB2") == [("LOC", 2, 2)]
    assert entities.entities(["B-LOC", "E-LOC", "S-PER", "B-PER", "I-PER"], "BIOES") == [("LOC", 0, 1), ("PER", 2, 2)]


def test_a_curve_of_labels_is_that_of_each():
    scores = ranking.Scores(["a", "b"])
    scores.add(None, [[1, 0], [0, 0], [0, 1]], [[0.9, 0.8], [0.2, 0.3], [0.1, 0.9]])
    assert [(each.name, ranking.roc_curve(each)["tpr"].tolist()) for each in scores.columns()] == [
        ("a", [0, 1, 1, 1]),
        ("b", [0, 1, 1, 1]),
    ]
