"""Labels as other tools write them: vectors, one-hot columns, lists as text, the numbers of a head of the model."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import transformers

import hftrain.labels
from hftrain import text
from hftrain.config import ConfigError, parse
from hftrain.data.written import unwritten
from hftrain.tasks import classification
from hftrain.tasks.classification import report

pytestmark = pytest.mark.unit

SEVERAL = "multi_label_classification"
SIZE = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}


def configured(path: Path, **settings: Any) -> Any:
    defaults = {"train_file": str(path), "output_dir": str(path.parent / "out")}
    return classification.ClassificationConfig(**defaults | {"validation_split": 4, "test_split": 4} | settings)


def read(config: Any) -> tuple[list[str], dict[str, list[str]]]:
    """Names of the classes, and the names of each text's labels."""
    rows = classification.load_labelled(config, seed=0)
    names, ids = hftrain.labels.number_classes(rows, config)
    labels = {row["text"]: row["label"] for split in rows.values() for row in split}
    return names, {text: [names[ids[label]] for label in found] for text, found in labels.items()}


def write(path: Path, labels: list[Any], count: int = 24) -> Path:
    """Rows whose labels go round, as the ending of `path` says."""
    rows = [{"text": f"text {n}", "label": labels[n % len(labels)]} for n in range(count)]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *((row["text"], row["label"]) for row in rows)])
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


VECTORS = [[0, 1, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("file", "labels"),
    [
        ("a.jsonl", VECTORS),
        ("a.jsonl", [[float(flag) for flag in vector] for vector in VECTORS]),
        ("a.jsonl", [[bool(flag) for flag in vector] for vector in VECTORS]),
        ("a.parquet", VECTORS),
        ("a.csv", [str(vector) for vector in VECTORS]),
        ("a.csv", ["[0 1 1]", "[1 0 0]", "[0 0 0]"]),  # NumPy
        ("a.csv", ["[0. 1. 1.]", "[1. 0. 0.]", "[0. 0. 0.]"]),
        ("a.csv", ["0,1,1", "1,0,0", "0,0,0"]),
        ("a.csv", ["0 1 1", "1 0 0", "0 0 0"]),
    ],
)
def test_vectors_have_a_place_for_each_class(tmp_path, caplog, file, labels):
    path = write(tmp_path / file, labels)
    names, found = read(configured(path, problem_type=SEVERAL))
    assert names == ["0", "1", "2"] and "vectors of 0 and 1 with a place for each of 3 classes" in caplog.text
    assert [found[f"text {n}"] for n in range(3)] == [["1", "2"], ["0"], []]
    named = ["praise", "blame", "hurt"]
    names, found = read(configured(path, problem_type=SEVERAL, label_names=named))
    assert names == named and [found[f"text {n}"] for n in range(3)] == [["blame", "hurt"], ["praise"], []]


def test_a_class_that_no_vector_has_is_one_too(tmp_path):
    names, _ = read(configured(write(tmp_path / "a.jsonl", [[0, 1, 0, 0], [1, 0, 0, 0]]), problem_type=SEVERAL))
    assert names == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        ([[0, 1, 1], [1, 0]], {}, r"row \d+ is a vector of 0 and 1 \(0, 1, 1\), but not every row has one"),
        ([[0, 1, 1], ["praise"]], {}, r"vector of 0 and 1 \(0, 1, 1\), but not every row"),
        ([[0, 1, 1], [1, 0, 0]], {"label_names": ["a", "b"]}, "vectors of 3 places, but label_names has 2 names"),
        ([[0], [1]], {}, "single 0 or 1 in every row. .* label_names .* both names"),
        ([[[0, 1]], [[1, 0]]], {}, "is a list of lists"),
    ],
)
def test_vectors_that_are_none_are_named(tmp_path, labels, settings, message):
    with pytest.raises(ValueError, match=message):
        read(configured(write(tmp_path / "a.jsonl", labels), problem_type=SEVERAL, **settings))


def test_numbers_of_classes_are_no_vectors(tmp_path):
    assert read(configured(write(tmp_path / "a.jsonl", [[0], [1], [0, 1], []]), problem_type=SEVERAL))[0] == ["0", "1"]
    path = write(tmp_path / "b.jsonl", [[0], [1]])
    assert read(configured(path, problem_type=SEVERAL, label_names=["x"]))[1]["text 1"] == ["x"]
    assert read(configured(path, problem_type=SEVERAL, label_names=["x", "y"]))[1]["text 1"] == ["y"]


def write_columns(path: Path, values: list[tuple[Any, ...]]) -> Path:
    rows = [(f"text {n}", *values[n % len(values)]) for n in range(24)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "rude", "spam", "threat"), *rows])
    return path


def test_several_columns_are_the_labels(tmp_path):
    path = write_columns(tmp_path / "a.csv", [(1, 0, 1), (0, 0, 0), ("True", "false", "0.0")])
    config = configured(path, problem_type=SEVERAL, label_column=["rude", "spam", "threat"])
    names, found = read(config)
    assert names == ["rude", "spam", "threat"]  # spam too, which no row has
    assert [found[f"text {n}"] for n in range(3)] == [["rude", "threat"], [], ["rude"]]
    words = ["--train_file", str(path), "--problem_type", SEVERAL, "--output_dir", "out"]
    parsed = parse(classification.ClassificationConfig, [*words, "--label_column", "rude", "spam", "threat"])
    assert parsed.label_column == config.label_column
    assert parse(classification.ClassificationConfig, [*words, "--label_column", "rude"]).label_column == ["rude"]
    with pytest.raises(ConfigError, match="the names of several columns are the label names"):
        configured(path, problem_type=SEVERAL, label_column=["rude", "spam"], label_names=["a", "b"])


def test_one_of_several_columns_is_the_class(tmp_path):
    path = write_columns(tmp_path / "a.csv", [(1, 0, 0), (0, 0, 1)])
    columns = ["rude", "spam", "threat"]
    rows = classification.load_labelled(configured(path, label_column=columns), seed=0)
    assert set(rows["train"]["label"]) == {"rude", "threat"}
    for values, message in [
        ((1, 1, 0), "line 2: 2 of the label columns are 1, but exactly one must be: rude, spam"),
        ((0, 0.5, 0), r"column 'spam' is .*0\.5.*, but must be 0, 1 or a boolean"),
        ((0, 1, -1), "column 'threat' is .*-1.*, but must be 0, 1 or a boolean"),
        ((0, 1, ""), "column 'threat' is .*but must be 0, 1 or a boolean"),
    ]:
        with pytest.raises(ValueError, match=message):
            classification.load_labelled(configured(write_columns(path, [values]), label_column=columns), seed=0)


@pytest.mark.parametrize(
    ("labels", "sign"),
    [
        (["['praise', 'mild']", "['blame']"], ""),
        (['["praise", "mild"]', '["blame"]'], ""),
        (["['praise' 'mild']", "['blame']"], ""),  # NumPy, which Python would read as praisemild
        (["{'praise', 'mild'}", "{'blame'}"], ""),
        (["praise,mild", "blame"], ""),
        (["praise|mild", "blame"], "labels are split at |"),
        (["praise; mild", "blame"], "labels are split at ;"),
    ],
)
def test_lists_that_were_written_as_text(tmp_path, caplog, labels, sign):
    path = write(tmp_path / "a.csv", labels)
    names, found = read(configured(path, problem_type=SEVERAL))
    assert names == ["blame", "mild", "praise"] and found["text 0"] == ["praise", "mild"] and sign in caplog.text
    if labels[1] == "['blame']":
        with pytest.raises(ValueError, match="is a list: set problem_type multi_label_classification"):
            classification.load_labelled(configured(path), seed=0)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("[praise, mild]", "has the brackets of a list, but is not a list in JSON or Python"),
        ("[0 1 ... 0]", "lost items when it was written as text"),
        ('{"praise": 1}', "not a list of labels"),
        ("a;b,c", r", and ; between labels: write a list"),
    ],
)
def test_text_that_is_no_list_is_named(tmp_path, label, message):
    with pytest.raises(ValueError, match=f"line 2: .*{message}"):
        read(configured(write(tmp_path / "a.csv", [label]), problem_type=SEVERAL))


def test_a_name_may_have_brackets_or_signs(tmp_path):
    rows = classification.load_labelled(configured(write(tmp_path / "a.csv", ["[none]", "(none)", "a;b"])), seed=0)
    assert set(rows["train"]["label"]) == {"[none]", "(none)", "a;b"}
    path = write(tmp_path / "b.csv", ["Smith, J.", "Doe"])
    named = configured(path, problem_type=SEVERAL, label_names=["Smith, J.", "Doe"])
    assert read(named)[1]["text 0"] == ["Smith, J."]


def test_numbers_by_a_head_with_names_are_told(tmp_path, caplog):
    folder, names = tmp_path / "head", {0: "entailment", 1: "neutral", 2: "contradiction"}
    architectures = ["BertForSequenceClassification"]
    transformers.BertConfig(**SIZE, id2label=names, architectures=architectures).save_pretrained(folder)
    path = write(tmp_path / "three.jsonl", [0, 1, 2])
    config = configured(path, model_name_or_path=str(folder))
    rows = classification.load_labelled(config, seed=0)
    found, ids = hftrain.labels.number_classes(rows, config)
    assert (
        found == list(names.values())
        and "0 = entailment, 1 = neutral, 2 = contradiction; to change that set label_names" in caplog.text
    )
    tokenizer = text.train_tokenizer(["a b c"], 300)
    examples = classification.tokenize(rows["train"], tokenizer, ids, config)
    assert "label 1 = neutral" in report.describe(rows["train"], examples, found, ids)
    config = configured(path, model_name_or_path=str(folder), label_names=["bad", "middling", "good"])
    assert hftrain.labels.number_classes(rows, config)[0] == ["bad", "middling", "good"]
    config = configured(write(tmp_path / "two.jsonl", [0, 1]), model_name_or_path=str(folder))
    rows = classification.load_labelled(config, seed=0)
    assert (
        hftrain.labels.number_classes(rows, config)[0] == ["0", "1"] and "a new head replaces its head" in caplog.text
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "{'text': array(['Rome'], dtype=object), 'answer_start': array([7])}",
            {"text": ["Rome"], "answer_start": [7]},
        ),
        ("['it\\'s', \"x\"\n 'y']", ["it's", "x", "y"]),
        ("[nan, None, -1, True]", [pytest.approx(float("nan"), nan_ok=True), None, -1, True]),
        ("(a) and (b)", "(a) and (b)"),
        ("[open", "[open"),
    ],
)
def test_text_as_the_value_it_shows(text, value):
    assert unwritten(text) == value


@pytest.mark.parametrize("text", ["[2024-01-05]", "['a''b']", "[1]]", "[a b]"])
def test_text_that_shows_no_value(text):
    with pytest.raises(ValueError, match="not a list in JSON or Python"):
        unwritten(text)


def test_texts_that_are_lists_are_told(tmp_path, caplog):
    rows = [{"text": f"['a', '{n}']" if n % 2 else f"[{n}] is a text", "label": "xy"[n % 2]} for n in range(24)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    classification.load_labelled(configured(path), seed=0)
    assert "12 values of column 'text' are lists or objects written as text" in caplog.text
