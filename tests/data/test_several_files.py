"""Several data sets in one setting: their syntax, weights and limits, what is drawn and what is reported."""

import csv
import json
from collections import Counter

import numpy as np
import pytest

from hftrain.config import ConfigError, DataConfig, parse
from hftrain.config.sources import Source, read_source
from hftrain.data.documents import open_source
from hftrain.data.several import scores_by_source, source_counts
from hftrain.data.sources import require_files
from hftrain.data.splits import load_splits
from hftrain.data.tokens import mix
from hftrain.tasks import pretraining
from hftrain.tasks.pretraining.config import PretrainingConfig

COLUMNS = {"text": "text", "label": "label"}


def write(path, name, count):
    rows = [{"text": f"{name} {number}", "label": "ab"[number % 2]} for number in range(count)]
    with path.open("w", newline="") as file:
        if path.suffix == ".csv":
            table = csv.DictWriter(file, ["label", "text"])
            table.writeheader()
            table.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def load(*files, seed=0, **settings):
    config = DataConfig(train_file=list(files), **settings)
    return load_splits(config, columns=COLUMNS, seed=seed, stratify="label")


@pytest.mark.parametrize(
    ("written", "source"),
    [
        ("a.jsonl", ("a.jsonl", 1, None)),
        ("a.jsonl@2", ("a.jsonl", 2, None)),
        ("a.jsonl@.5", ("a.jsonl", 0.5, None)),
        ("a.jsonl#500", ("a.jsonl", 1, 500)),
        ("a.jsonl#500@2.5", ("a.jsonl", 2.5, 500)),
        ("a.jsonl@2.5#500", ("a.jsonl", 2.5, 500)),
        ("me@home/a#b.jsonl", ("me@home/a#b.jsonl", 1, None)),
        ("a@2.jsonl", ("a@2.jsonl", 1, None)),
    ],
)
def test_a_source_as_it_is_written(written, source):
    assert read_source(written) == Source(written, *source)


@pytest.mark.parametrize("mark", ["@nan", "@twice", "#2@inf"])
def test_a_missing_file_with_an_unreadable_mark_names_the_one_that_is_there(tmp_path, mark):
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"a\.jsonl is there\. @ is followed by a weight above 0"):
        require_files(DataConfig(train_file=[f"{tmp_path}/a.jsonl{mark}"]))


def test_files_in_the_home_folder_and_files_with_commas_between(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("{}")
    require_files(DataConfig(train_file=["~/a.jsonl@2", "~/b.jsonl"]))
    with pytest.raises(ValueError, match=rf"no file {tmp_path}/c\.jsonl"):
        require_files(DataConfig(train_file=["~/c.jsonl"]))
    with pytest.raises(ValueError, match="put blanks, not commas, between several files"):
        require_files(DataConfig(train_file=["~/a.jsonl@2,~/b.jsonl"]))


@pytest.mark.parametrize("written", ["a@0", "a@-1", "a#0", "a#1.5", "a@1@2", "a@1e9", "a#-3"])
def test_weights_and_limits_that_cannot_be(written):
    with pytest.raises(ConfigError, match=f"train_file: {written}"):
        DataConfig(train_file=[written])


def test_a_file_of_that_very_name_wins(tmp_path):
    path = tmp_path / "notes#2"
    path.write_text("x")
    assert read_source(str(path)).limit is None
    (tmp_path / "part-1@2").write_text("x")
    assert read_source(str(tmp_path / "part-*@2")).weight == 1  # a pattern that finds files as it stands


def test_the_command_line_and_yaml(tmp_path):
    config = parse(DataConfig, ["--train_file", "a,b.jsonl", "c.csv@2", "--test_file", "t.jsonl#5"])
    assert config.train_file == ["a,b.jsonl", "c.csv@2"] and config.test_file == ["t.jsonl#5"]
    assert (config.trained_on, config.tested_on) == ("a,b.jsonl, c.csv@2", "t.jsonl#5")
    (tmp_path / "run.yaml").write_text("train_file: [a.jsonl, b.csv#7]\n")
    assert parse(DataConfig, ["--config", str(tmp_path / "run.yaml")]).train_file == ["a.jsonl", "b.csv#7"]
    (tmp_path / "run.yaml").write_text("train_file: a.jsonl\nvalidation_file: null\n")
    config = parse(DataConfig, ["--config", str(tmp_path / "run.yaml")])
    assert (config.train_file, config.validation_file, config.tested_on) == (["a.jsonl"], None, "a.jsonl")
    for wrong, message in (
        ({"test_file": "t@2"}, "takes no weights"),
        ({"train_file": ["a", "a@2"]}, "contains a twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            DataConfig(**{"train_file": "a"} | wrong)


def test_files_of_several_formats_are_one_data_set(tmp_path, caplog):
    first, second = write(tmp_path / "first.jsonl", "first", 300), write(tmp_path / "second.csv", "second", 100)
    rows = load(first, f"{second}@2.5", validation_split=40, test_split=40)
    assert len(rows["train"]) == 240 + round(2.5 * 80)
    for name in ("validation", "test"):
        assert source_counts(rows[name]) == {f"rows of {first}": 30, f"rows of {second}@2.5": 10}
    times = Counter(rows["train"]["text"])
    assert {times[text] for text in times if text.startswith("first")} == {1}
    assert Counter(times[text] for text in times if text.startswith("second")) == {2: 40, 3: 40}
    assert f"rows of {second}@2.5: 200 train, 10 validation, 10 test" in caplog.text
    scores = scores_by_source(rows["test"], accuracy=[text.startswith("first") for text in rows["test"]["text"]])
    assert [(row["rows"], row["accuracy"]) for row in scores] == [(30, 1.0), (10, 0.0)]
    place = next(i for i, text in enumerate(rows["test"]["text"]) if text.startswith("second"))
    assert str(rows["test"].places.bad(place, "odd")).startswith(f"{second}, line")


def test_weights_and_limits_follow_from_the_seed_alone(tmp_path):
    path, mixed = tmp_path / "a.jsonl", tmp_path / "mixed.jsonl"
    write(path, "a", 200)
    lines = path.read_text().splitlines()
    mixed.write_text("\n".join(lines[::-1]))

    def texts(file, **settings):
        rows = load(f"{file}#60@0.5", validation_split=10, test_split=10, **settings)
        return {name: sorted(part["text"]) for name, part in rows.items()}

    assert {name: len(part) for name, part in texts(path).items()} == {"train": 20, "validation": 10, "test": 10}
    assert texts(path) == texts(path) == texts(mixed) != texts(path, seed=1)
    prints = {load(f"{path}{mark}")["train"].fingerprint for mark in ("", "#60", "#70", "@2", "@0.5")}
    assert len(prints) == 5  # a resumed run sees it


def test_limits_of_held_out_files_and_of_bad_rows(tmp_path, caplog):
    first, second = write(tmp_path / "a.jsonl", "a", 60), write(tmp_path / "b.jsonl", "b", 40)
    rows = load(first, validation_file=[second + "#15", write(tmp_path / "c.jsonl", "c", 5)], test_file=second + "#900")
    assert [len(rows[name]) for name in ("train", "validation", "test")] == [60, 20, 40]
    assert "it has only 40 rows" in caplog.text
    for path in (tmp_path / "a.jsonl", tmp_path / "b.jsonl"):
        path.write_text(path.read_text() + '{"text": null, "label": "a"}\n')
    with pytest.raises(ValueError, match="2 bad rows in all, max_bad_rows is 1"):
        load(first, second, max_bad_rows=1)
    assert len(load(first, second, max_bad_rows=2)["train"].bad) == 2


# ---- pretraining


def test_sources_of_tokens_get_names_of_their_own():
    written = ["x/wiki.jsonl.gz@2", "y/wiki.jsonl", "old books*.txt#5"]
    assert list(pretraining.name_sources(written)) == ["wiki", "wiki-2", "old-books"]
    assert list(pretraining.name_sources(["x/wiki.jsonl#5"])) == ["text"]
    with pytest.raises(ConfigError, match="source_weights and train_file: both weigh the sources"):
        PretrainingConfig(train_file=["a@2", "b"], source_weights={"a": 1.0, "b": 1.0})


def test_documents_of_a_limit_are_the_first_by_hash(tmp_path):
    path = tmp_path / "a.txt"
    lines = [f"document {number % 90}" for number in range(100)]
    path.write_text("\n".join(lines))
    kept = list(open_source(str(path), limit=30, seed=1))
    assert 28 <= len(kept) <= 30 and all(lines.count(text) == kept.count(text) for text in kept)
    path.write_text("\n".join(lines[::-1]))
    assert sorted(open_source(str(path), limit=30, seed=1)) == sorted(kept) != sorted(open_source(str(path), limit=30))
    assert len(list(open_source(str(path), limit=1000))) == 100


def test_tokens_are_drawn_as_often_as_weights_say():
    lengths = np.array([10] * 20 + [30] * 10)
    chosen = mix(lengths, {"a": (0, 20), "b": (20, 30)}, {"a": 2.5, "b": 1}, seed=1, repeats=True)
    counts = Counter(chosen.tolist())
    assert Counter(counts[number] for number in range(20)) == {2: 10, 3: 10}
    assert {counts[number] for number in range(20, 30)} == {1}


def test_pretraining_reads_several_files(tmp_path, caplog):
    sentences = [f"the {word} has the number {number}." for number, word in enumerate(["dog", "cat", "bird"] * 60)]
    (tmp_path / "books.txt").write_text("\n".join(sentences))
    (tmp_path / "wiki.jsonl").write_text("".join(json.dumps({"text": f"wiki: {text}"}) + "\n" for text in sentences))
    files = [str(tmp_path / "wiki.jsonl#40"), str(tmp_path / "books.txt@2")]
    config = PretrainingConfig(train_file=files, vocab_size=300, validation_split=0.2, max_length=64)
    _, tokens = pretraining.load_tokens(config)
    documents = {name: sum(end - first for first, end in [part.sources[name]]) for part in tokens.values()
                 for name in part.sources if part.split == "train"}  # fmt: skip
    assert set(documents) == {"wiki", "books"} and documents["wiki"] < 40 < 100 < documents["books"]
    assert "documents to train on, as source books" in caplog.text
    examples = pretraining.make_blocks(config, tokens, "none")
    assert len(examples["train"]) == documents["wiki"] + 2 * documents["books"]
    told = pretraining.describe(tokens, examples)
    assert told["train"]["documents of wiki"] == documents["wiki"]
    with pytest.raises(ValueError, match="a folder of hftrain prepare cannot be combined"):
        pretraining.name_sources([files[0], str(tokens["train"].folder)])


def test_a_file_is_in_one_of_the_data_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", "a", 30), write(tmp_path / "b.jsonl", "b", 30)
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    for other in ("./a.jsonl@2", "*.jsonl", "link.jsonl"):
        with pytest.raises(ValueError, match=r" is in a\.jsonl and in .*: leave it out of one of them"):
            load("a.jsonl", other)
    assert len(load("a.jsonl", "b*.jsonl")["train"]) > 30


def test_a_weight_that_draws_nothing_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(30)))
    with pytest.raises(ValueError, match=r"a\.jsonl@0\.01: the weight 0\.01 draws none of its \d+ training rows"):
        load_splits(DataConfig(train_file=[f"{path}@0.01"]), columns={"text": "text"})
