"""Which rows are set aside: how many, by class, blind to their order; and what is said of a set that is too small."""

import json
from collections import Counter

import datasets
import numpy as np
import pytest

from hftrain.config import DataConfig
from hftrain.data.cut import deal, draw, fold_rows, held_out_size, split_rows
from hftrain.data.names import alike
from hftrain.data.splits import few_to_choose_by, load_splits, strata_of
from hftrain.metrics.intervals import wilson
from hftrain.tasks.classification import ClassificationConfig

pytestmark = pytest.mark.unit

COLUMNS = {"text": "text", "label": "label"}


def rows_of(counts, copies=1):
    rows = [{"text": f"{label} {number}", "label": label} for label, count in counts.items() for number in range(count)]
    return datasets.Dataset.from_list(rows * copies)


def classes(rows):
    return Counter(rows["label"])


@pytest.mark.parametrize(
    ("rows", "validation", "test"),
    [
        (2, 1, 1), (10, 1, 2), (50, 2, 10), (200, 10, 40), (250, 12, 50), (499, 25, 50), (640, 32, 64), (990, 50, 99),
        (1_000, 100, 100), (20_000, 2_000, 2_000), (1_000_000, 2_000, 2_000),
    ],
)  # fmt: skip
def test_how_many_rows_are_set_aside_by_default(rows, validation, test):
    assert (held_out_size("validation", rows), held_out_size("test", rows)) == (validation, test)


def test_a_text_with_many_rows_is_set_aside_whole_where_nobody_says_how_many():
    rows = datasets.Dataset.from_list([{"text": f"text {i % 10}", "label": str(i)} for i in range(300)])
    parts = split_rows(rows, None, 0.2, 1, by="text")
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [210, 30, 60]
    with pytest.raises(ValueError, match="each is in more than 15 rows: raise validation_split"):
        split_rows(rows, 0.05, 0.2, 1, by="text")


@pytest.mark.parametrize("share", [0.05, None, 40])
def test_each_class_gets_its_share_with_every_seed(share):
    rows = rows_of({"common": 950, "rare": 50})
    seen = set()
    for seed in range(12):
        parts = split_rows(rows, share, share, seed, by="text", strata=rows["label"])
        for name in ("validation", "test"):
            size = len(parts[name])
            assert size == {0.05: 50, None: 100, 40: 40}[share]
            assert abs(classes(parts[name])["rare"] - size / 20) <= 1
        seen.add(tuple(parts["test"]["text"][:]))
    assert len(seen) == 12


def test_the_order_of_the_rows_decides_nothing():
    rows = rows_of({"a": 30, "b": 90, "c": 7}, copies=2)
    mixed = rows.shuffle(seed=5)
    ours, theirs = (split_rows(each, 0.2, 0.2, 3, by="text", strata=each["label"]) for each in (rows, mixed))
    for name, part in ours.items():
        assert sorted(part["text"]) == sorted(theirs[name]["text"])
    texts = [set(part["text"]) for part in ours.values()]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])  # both copies on one side
    for fold in (1, 2, 3):
        ours, theirs = (fold_rows(each, 3, fold, 3, by="text", strata=each["label"])[1] for each in (rows, mixed))
        assert sorted(rows.select(ours)["text"]) == sorted(mixed.select(theirs)["text"])


def test_texts_with_two_labels_stay_together():
    rows = datasets.Dataset.from_list([{"text": f"{n % 40}", "label": "ab"[n // 40]} for n in range(80)])
    parts = split_rows(rows, 0.2, 0.2, 0, by="text", strata=rows["label"])
    assert all(set(Counter(part["text"]).values()) == {2} for part in parts.values())


def test_a_class_keeps_a_text_to_train_on():
    rows = rows_of({"common": 40, "twice": 2, "once": 1, "again": 1})
    for seed in range(20):
        parts = split_rows(rows, 0.3, 0.3, seed, by="text", strata=rows["label"])
        assert set(classes(parts["train"])) == {"common", "twice", "once", "again"}


def test_shares_are_rounded_without_a_lean():
    """Three classes of a third of a row each: exactly one row is drawn, of each class equally often."""
    sizes, strata = np.ones(30, int), np.repeat([0, 1, 2], 10)
    drawn = Counter()
    for start in np.linspace(0, 1, 300, endpoint=False):
        (index,) = draw(sizes, strata, 1, float(start), keep=True)
        drawn[int(strata[index])] += 1
    assert set(drawn.values()) == {100}


def test_labels_are_drawn_by_their_sets():
    labels = [["a"], ["a", "b"], ["b", "a"], ["c", "a"], ["d"], []] * 2
    labels[9], labels[10] = ["x"], ["y"]
    rows = datasets.Dataset.from_dict({"text": [str(n) for n in range(12)], "label": labels})
    strata = strata_of(rows, "label")
    assert strata[1] == strata[2] == strata[7] and strata[0] == strata[6] != strata[1]
    assert strata[3] == strata[4] == strata[9] == strata[10]  # sets of one row
    assert strata_of(rows, None) is None


def test_folds_test_each_row_once_and_have_all_classes():
    rows = rows_of({"a": 31, "b": 52, "c": 5}, copies=2)
    tested = [fold_rows(rows, 5, fold, 1, by="text", strata=rows["label"]) for fold in range(1, 6)]
    assert sorted(np.concatenate([test for _, test in tested]).tolist()) == list(range(len(rows)))
    for train, test in tested:
        assert not set(train) & set(test) and len(train) + len(test) == len(rows)
        assert classes(rows.select(test)).keys() == {"a", "b", "c"}
        assert abs(len(test) - len(rows) / 5) <= 2
        assert not set(rows.select(train)["text"]) & set(rows.select(test)["text"])
    with pytest.raises(ValueError, match="folds 100: there are only 88 different texts in column 'text'"):
        fold_rows(rows, 100, 1, 1, by="text")


def test_a_large_group_fills_a_fold():
    assert Counter(deal(np.array([4, 1, 1, 1, 1, 1, 1, 1, 1]), np.zeros(9, int), 3).tolist()) == {0: 1, 1: 4, 2: 4}


@pytest.mark.parametrize(
    ("right", "total", "low", "high"), [(0, 10, 0, 0.2775), (36, 40, 0.7695, 0.9604), (10, 10, 0.7225, 1)]
)
def test_wilson(right, total, low, high):
    assert wilson(right, total) == pytest.approx((low, high), abs=1e-4)


def test_a_validation_set_too_small_to_choose_by_is_named(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of({"a": 100, "b": 100})))
    rows = load_splits(DataConfig(train_file=str(path)), columns=COLUMNS, stratify="label", score="an accuracy")
    assert [len(rows[name]) for name in ("train", "validation", "test")] == [150, 10, 40]
    assert (
        "10 validation rows: an accuracy of 90 % on them may be 60 to 98 % on more rows; set validation_file"
        in caplog.text
    )
    assert "folds 5" in caplog.text and "a twentieth of fewer; test a tenth; of under 500 rows 50," in caplog.text
    assert few_to_choose_by(25, None).startswith("25 validation rows: a mean over them has a margin of +-0.39 standard")
    assert few_to_choose_by(100, "an accuracy") is None
    assert "folds" not in few_to_choose_by(25, None, folded=True)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_missing_column_names_the_settings_that_choose_it(tmp_path, name):
    path = tmp_path / name
    lines = "Review,Sentiment\nfine,good\n" if name == "rows.csv" else '{"Review": "fine", "Sentiment": "good"}\n'
    path.write_text(lines)
    config = ClassificationConfig(train_file=[str(path)])
    columns = {"text": config.text_column, "label": config.label_column[0]}
    message = r"(?s)no column 'text'; there are 'Review', 'Sentiment'.*\nThe settings of the columns: "
    with pytest.raises(ValueError, match=message + r"label_column \(now label\), text_column \(now text\)$"):
        load_splits(config, columns=columns)


def test_names_that_are_spelt_alike():
    counts = {"neg": 5, "Neg": 9, " neg": 1, "pos": 3, "Stra\u00dfe": 1, "STRASSE": 2, "caf\u00e9": 1, "cafe\u0301": 2}
    assert alike(counts) == [["Neg", "neg", " neg"], ["STRASSE", "Stra\u00dfe"], ["cafe\u0301", "caf\u00e9"]]
    assert alike({"a": 1, "b": 1, "a-b": 1}) == []
    assert alike({"a": 3, "a\u200b": 2, "\ufeffa": 1}) == [["a", "a\u200b", "\ufeffa"]], "invisible characters"
