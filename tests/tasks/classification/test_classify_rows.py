"""Rows and classes of a classification: what is read, numbered and refused."""

import pytest
import transformers

import hftrain.labels
from hftrain.tasks import classification
from tests.tasks.classification.test_classify import NUMBER, SEVERAL, SINGLE, SIZE, configured, make_rows, write

# ---- rows and classes


@pytest.mark.parametrize(
    ("problem", "label", "message"),
    [
        (SINGLE, None, r"rows.jsonl, line 3: column 'label' is null"),
        (SINGLE, "", r"line 3: column 'label' is empty"),
        (SINGLE, ["a"], r"line 3: column 'label' is a list: set problem_type multi_label_classification"),
        (SINGLE, 0.5, r"line 3: column 'label' is 0.5, which is not a class: .* problem_type regression"),
        (SEVERAL, 7, r"line 3: column 'label' is 7, not a list of labels"),
        (SEVERAL, ["a", None], r"line 3: a label of column 'label' is null"),
        (NUMBER, "many", r"line 3: column 'label' is not a number: 'many'"),
        (NUMBER, "nan", r"line 3: column 'label' is not a number: 'nan'"),
        (NUMBER, True, r"line 3: column 'label' is not a number: True"),
    ],
)
def test_a_label_that_is_none_is_named(tmp_path, problem, label, message):
    good = {SINGLE: "a", SEVERAL: ["a"], NUMBER: 1.5}[problem]
    rows = [{"text": "one", "label": good}, {"text": "two", "label": good}, {"text": "three", "label": label}]
    with pytest.raises(ValueError, match=message):
        classification.load_labelled(configured(tmp_path, rows, problem_type=problem), seed=0)


@pytest.mark.parametrize(("value", "message"), [(None, "'text' is null"), ("", "'text' is empty"), (" ", "is empty")])
def test_a_text_that_says_nothing_is_named(tmp_path, value, message):
    rows = [*make_rows(9, 0), {"text": value, "label": "food"}]
    with pytest.raises(ValueError, match=f"line 10: column {message}" if "'" in message else message):
        classification.load_labelled(configured(tmp_path, rows), seed=0)
    left = classification.load_labelled(configured(tmp_path, rows, max_bad_rows=1), seed=0)
    assert sum(map(len, left.values())) == 9


def test_columns_that_nothing_reads_are_named_once(tmp_path, caplog):
    rows = [{**row, "title": f"t {n}"} for n, row in enumerate(make_rows(60, 0))]
    settings = {"test_file": write(tmp_path / "test.jsonl", rows[:9])}
    classification.load_labelled(configured(tmp_path, rows, **settings), seed=0)
    (said,) = [record.message for record in caplog.records if "not read" in record.message]
    assert said == (
        f"columns that are not read: title (69 rows) in {tmp_path / 'rows.jsonl'} and 1 other file. text_column, "
        "text_pair_column and label_column choose the columns"
    )
    caplog.clear()
    classification.load_labelled(configured(tmp_path, rows, text_pair_column="title", **settings), seed=0)
    assert "not read" not in caplog.text


def test_labels_are_names_or_numbers_in_a_fixed_order(tmp_path):
    def classes(labels, **settings):
        rows = [{"text": f"text {n}", "label": labels[n % len(labels)]} for n in range(60)]
        return hftrain.labels.number_classes(
            classification.load_labelled(configured(tmp_path, rows, **settings), 0),
            configured(tmp_path, rows, **settings),
        )

    assert classes(["b", "a", "c"]) == (["a", "b", "c"], {"a": 0, "b": 1, "c": 2})
    assert classes([10, 9, 2])[0] == ["2", "9", "10"]
    assert classes([1, 0], label_names=["no", "yes"]) == (["no", "yes"], {"0": 0, "1": 1, "no": 0, "yes": 1})
    assert classes(["yes", "no"], label_names=["yes", "no"])[1]["yes"] == 0
    assert classes([True, False])[0] == ["false", "true"]
    assert classes([["b", "a"], [], ["c"]], problem_type=SEVERAL)[0] == ["a", "b", "c"]
    assert classes(["b,a", "", "c"], problem_type=SEVERAL)[0] == ["a", "b", "c"]
    assert classes([0.5, 1], problem_type=NUMBER) == ([], {})


def test_labels_that_are_no_class_are_named(tmp_path):
    train, test = make_rows(60, 0), [{"text": "some text", "label": "food"}, {"text": "thing", "label": "plant"}]
    files = {"test_file": write(tmp_path / "test.jsonl", test)}
    config = configured(tmp_path, train, **files)
    rows = classification.load_labelled(config, 0)
    with pytest.raises(
        ValueError,
        match=r"the test rows have labels that are not among the training rows .*'plant' in row 2\. .*label_names",
    ):
        hftrain.labels.number_classes(rows, config)
    config = configured(tmp_path, train, **files, label_names=["animal", "colour", "food", "plant"])
    assert hftrain.labels.number_classes(rows, config)[0][-1] == "plant"
    alone = configured(tmp_path, [{"text": f"text {n}", "label": "same"} for n in range(20)])
    with pytest.raises(
        ValueError, match=r"all 12 training rows have the label 'same': there is nothing to distinguish"
    ):
        hftrain.labels.number_classes(classification.load_labelled(alone, 0), alone)


def test_labels_off_by_one_are_named(tmp_path):
    rows = [{"text": f"text {n}", "label": 1 + n % 3} for n in range(30)]
    config = configured(tmp_path, rows, label_names=["bad", "fair", "good"])
    message = r"the labels are off by one: the rows have 1 to 3, and label_names \(bad, fair, good\) count from 0 to 2"
    with pytest.raises(ValueError, match=message):
        hftrain.labels.number_classes(classification.load_labelled(config, 0), config)
    (tmp_path / "head").mkdir()
    settings = {"num_labels": 3, "architectures": ["BertForSequenceClassification"]}
    transformers.BertConfig(**SIZE, **settings).save_pretrained(tmp_path / "head")
    config = configured(tmp_path, rows, model_name_or_path=str(tmp_path / "head"))
    with pytest.raises(ValueError, match=r"off by one: the rows have 1 to 3, and the classes of .*head \(0, 1, 2\)"):
        hftrain.labels.number_classes(classification.load_labelled(config, 0), config)


def test_a_classifier_keeps_its_classes_or_gets_a_new_head(tmp_path, caplog):
    folder = tmp_path / "head"
    folder.mkdir()
    names = {0: "food", 1: "colour", 2: "animal"}
    config = transformers.BertConfig(**SIZE, id2label=names, architectures=["BertForSequenceClassification"])
    config.save_pretrained(folder)
    settings = configured(tmp_path, model_name_or_path=str(folder))
    rows = classification.load_labelled(settings, 0)
    assert hftrain.labels.number_classes(rows, settings)[0] == ["food", "colour", "animal"]
    config.id2label = {0: "x", 1: "y"}
    config.save_pretrained(folder)
    with caplog.at_level("WARNING"):
        assert hftrain.labels.number_classes(rows, settings)[0] == ["animal", "colour", "food"]
    assert "has the classes x, y, but the training rows have animal, colour, food: a new head replaces" in caplog.text


def test_rows_in_two_splits_are_named(tmp_path, caplog):
    rows = make_rows(40, 0)
    files = {"test_file": write(tmp_path / "test.jsonl", [rows[0], {**rows[1], "label": "food"}])}
    with caplog.at_level("WARNING"):
        loaded = classification.load_labelled(configured(tmp_path, rows, validation_split=0.1, **files), 0)
    assert (
        loaded["test"].leaks.inputs == 2 and "leak: 1 of 2 test rows" in caplog.text and rows[0]["text"] in caplog.text
    )
