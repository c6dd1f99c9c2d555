"""The tagging recipe as it is used: from CoNLL or lists to a folder that says the entities of any text."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from transformers import AutoModelForTokenClassification, AutoTokenizer

from hftrain.config import ConfigError
from hftrain.losses import count_labels
from hftrain.predict import predict
from hftrain.tasks import tagging
from hftrain.tasks.tagging.examples import windows
from hftrain.tasks.tagging.spans import words_of
from recipes import tag as recipe
from tests import ROOT, tiny
from tests.old_folders import without_the_key
from tests.programs import launcher, run

RECIPE = ROOT / "recipes" / "tag.py"
PEOPLE, PLACES, VERBS = ["anna", "bert", "clara smith", "david"], ["rome", "new york", "oslo"], ["likes", "left", "saw"]
LETTERS = "abcdefghijklmnopqrstuvwxyz.,'-"


def sentences(count: int = 60) -> list[tuple[list[str], list[str]]]:
    """One to four times "anna likes new york .", tagged."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(count):
        words, tags = [], []
        for _ in range(draw.integers(1, 5)):
            said = [(draw.choice(PEOPLE), "PER"), (draw.choice(VERBS), ""), (draw.choice(PLACES), "LOC"), (".", "")]
            for name, type_ in said:
                parts = name.split()
                words += parts
                tags += [f"{'I' if number else 'B'}-{type_}" if type_ else "O" for number in range(len(parts))]
        found.append((words, tags))
    return found


def conll(rows: list[tuple[list[str], list[str]]]) -> str:
    return "\n".join("".join(f"{word}\t{tag}\n" for word, tag in zip(*row, strict=True)) for row in rows)


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> Path:
    """A small BERT with a real WordPiece tokenizer: words it knows, and letters for the others."""
    words = sorted({word for name in PEOPLE + PLACES + VERBS for word in name.split()} - {"clara", "oslo"})
    vocabulary = [*words, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    size = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    return tiny.bert_folder(tmp_path_factory.mktemp("bert"), vocabulary, **size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The sentences in each form that the recipe names."""
    folder = tmp_path_factory.mktemp("sentences")
    rows = sentences()
    (folder / "a.conll").write_text(conll(rows))
    (folder / "a.jsonl").write_text("".join(json.dumps({"tokens": w, "tags": t}) + "\n" for w, t in rows))
    names = ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
    numbers = {"tokens": [w for w, _ in rows], "ner_tags": [[names.index(tag) for tag in t] for _, t in rows]}
    tags = datasets.Sequence(datasets.ClassLabel(names=names))
    features = datasets.Features(tokens=datasets.Sequence(datasets.Value("string")), ner_tags=tags)
    datasets.Dataset.from_dict(numbers, features=features).save_to_disk(folder / "saved")
    datasets.Dataset.from_dict(numbers).to_parquet(folder / "a.parquet")
    return folder


def configured(bert: Path, output_dir: Path, **settings: Any) -> Any:
    defaults: dict[str, Any] = {"model_name_or_path": str(bert), "max_steps": 2, "eval_steps": 0, "save_steps": 0}
    defaults |= {"logging_steps": 1, "output_dir": str(output_dir), "max_seq_length": 24, "doc_stride": 6}
    defaults |= {"validation_split": 12, "test_split": 12}
    return recipe.TagConfig(**defaults | {key: str(v) if isinstance(v, Path) else v for key, v in settings.items()})


@pytest.fixture(scope="module")
def trained(bert, folder, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("tag") / "out"
    config = configured(bert, output, train_file=folder / "a.conll", max_steps=60, learning_rate=5e-3,
                        metric_for_best_model="f1", greater_is_better=True)  # fmt: skip
    return output, recipe.main(config)


def test_an_inside_after_outside_is_named_with_file_and_line(bert, tmp_path):
    (tmp_path / "a.conll").write_text(conll([*sentences(8), (["in", "rome"], ["O", "I-LOC"])]))
    config = configured(bert, tmp_path / "out", train_file=tmp_path / "a.conll", validation_split=2, test_split=2)
    line = (tmp_path / "a.conll").read_text().split("\n").index("in\tO") + 1
    why = rf"a\.conll, line {line}: word 2, 'rome': I-LOC after O, where an entity should begin with B- \(label_scheme "
    with pytest.raises(ValueError, match=why):
        tagging.load_sentences(config, seed=1)
    config.max_bad_rows = 1
    rows, scheme = tagging.load_sentences(config, seed=1)
    assert scheme == "IOB2" and [bad.place for bad in rows["train"].bad] == [f"line {line}"]
    config.label_scheme, config.max_bad_rows = "any", 0
    rows, _ = tagging.load_sentences(config, seed=1)
    assert sum(map(len, rows.values())) == 9


# ---- rows


@pytest.mark.parametrize("source", ["a.conll", "a.jsonl", "a.parquet", "saved"])
def test_every_form_says_the_same(bert, folder, tmp_path, source):
    names = {"label_names": ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]} if source == "a.parquet" else {}
    where = {"dataset_name": str(folder / source)} if source == "saved" else {"train_file": folder / source}
    rows, scheme = tagging.load_sentences(configured(bert, tmp_path, **where, **names), seed=1)
    every = [(row["tokens"], row["tags"]) for split in rows.values() for row in split]
    assert scheme == "IOB2" and sorted(every) == sorted(sentences())


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"tokens": ["a"], "tags": None}, "column 'tags' is null"),
        ({"tokens": "a b", "tags": ["O"]}, "2 words, but 1 tags"),
        ({"tokens": 7, "tags": ["O"]}, "column 'tokens' is not a list but int: 7"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 words, but 1 tags"),
        ({"tokens": [], "tags": []}, "no words"),
        ({"tokens": ["a", None], "tags": ["O", "O"]}, "word 2 is null"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "word 2 is empty"),
        ({"tokens": ["a"], "tags": [3]}, "tag 1 is the number 3: name the tags of the numbers in label_names"),
        ({"tokens": ["a"], "tag": ["O"]}, "no column 'tags'; there are 'tokens', 'tag'; did you mean 'tag'?"),
    ],
)
def test_bad_rows_are_named(bert, tmp_path, row, why):
    (tmp_path / "a.jsonl").write_text('{"tokens": ["a"], "tags": ["O"]}\n' + json.dumps(row) + "\n")
    with pytest.raises(ValueError) as error:
        tagging.load_sentences(configured(bert, tmp_path, train_file=tmp_path / "a.jsonl"), seed=1)
    assert f"a.jsonl, line 2: {why}" in str(error.value)


def test_numbers_beyond_their_names(bert, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"tokens": ["a"], "tags": [2]}\n')
    config = configured(bert, tmp_path, train_file=tmp_path / "a.jsonl", label_names=["O", "B-X"])
    with pytest.raises(
        ValueError, match=r"tag 1 is 2, but label_names covers the numbers 0 to 1 \(do they count from 1\?\)"
    ):
        tagging.load_sentences(config, seed=1)


def test_tags_that_training_lacks_and_a_single_tag(bert, tmp_path):
    train = datasets.Dataset.from_dict({"tokens": [["a", "b"]], "tags": [["O", "B-X"]]})
    test = datasets.Dataset.from_dict({"tokens": [["a", "b"]], "tags": [["B-Y", "B-Y"]]})
    config = configured(bert, tmp_path, train_file="a.conll")
    with pytest.raises(ValueError, match=r"the test rows have tags that the training rows lack: 'B-Y' \(2 words\)"):
        tagging.label_names({"train": train, "test": test}, config)
    config.label_names = ["O", "B-X", "B-Y"]
    assert tagging.label_names({"train": train, "test": test}, config) == ["O", "B-X", "B-Y"]
    config.label_names = []
    with pytest.raises(ValueError, match="every training word has the tag 'B-Y': there is nothing to learn"):
        tagging.label_names({"train": test}, config)


def test_settings_that_cannot_be(bert, tmp_path):
    with pytest.raises(ConfigError, match="model_name_or_path: the task needs a pretrained model"):
        recipe.TagConfig(train_file="a.conll")
    with pytest.raises(ConfigError, match="metric 'roc_auc' does not fit token_classification"):
        configured(bert, tmp_path, train_file="a.conll", metrics=["roc_auc"])


# ---- windows


def test_no_word_is_lost_and_each_is_where_most_stands_around_it():
    draw = np.random.default_rng(0)
    for _ in range(500):
        room = int(draw.integers(1, 12))
        sizes = draw.integers(1, room + 1, draw.integers(1, 40)).tolist()
        cut = windows(sizes, room, int(draw.integers(0, room)))
        assert [w for each in cut for w in range(each.own_begin, each.own_end)] == list(range(len(sizes)))
        ends = np.cumsum(sizes)
        for each in cut:
            assert sum(sizes[each.begin : each.end]) <= room and each.begin <= each.own_begin < each.own_end <= each.end
            for word in range(each.own_begin, each.own_end):
                shown = [context(ends, sizes, other, word) for other in cut if other.begin <= word < other.end]
                assert context(ends, sizes, each, word) == max(shown)


def context(ends: np.ndarray, sizes: list[int], window: Any, word: int) -> float:
    """Tokens between the word and the nearer cut."""
    left = sum(sizes[window.begin : word]) if window.begin else np.inf
    right = ends[window.end - 1] - ends[word] if window.end < len(sizes) else np.inf
    return min(left, right)


def test_neighbouring_windows_share_as_much_as_asked():
    assert [window[:2] for window in windows([1] * 10, 6, 2)] == [(0, 6), (4, 10)]
    assert [window[2:] for window in windows([1] * 10, 6, 2)] == [(0, 5), (5, 10)]
    assert [window[:2] for window in windows([1] * 10, 5, 0)] == [(0, 5), (5, 10)]
    assert [window[:2] for window in windows([2, 3, 5, 1], 5, 4)] == [(0, 2), (2, 3), (3, 4)]


def test_labels_stand_at_first_sub_words(bert):
    tokenizer = AutoTokenizer.from_pretrained(bert)
    sizes = {"max_seq_length": 12, "doc_stride": 2}
    words = ["anna", "oslo", "\u200b", "x" * 30]  # known, in letters, nothing the tokenizer sees, longer than a window
    columns, counts = tagging.cut_sentences(tokenizer, [words], [[1, 2, 3, 4]], **sizes)
    assert counts == {"sentences in windows": 1, "words cut": 1}
    assert columns["labels"] == [[-100, 1, 2, -100, -100, -100, 3, -100], [-100, 4, *[-100] * 10]]
    assert columns["positions"] == [[1, 2, 6], [1]] and columns["part"] == [0, 1]
    assert columns["input_ids"][0][6] == tokenizer.unk_token_id and len(columns["input_ids"][1]) == 12
    columns, _ = tagging.cut_sentences(tokenizer, [words[:2]], [[1, 2]], label_all_tokens=True, **sizes)
    assert columns["labels"] == [[-100, 1, 2, 2, 2, 2, -100]] and columns["positions"] == [[1, 2]]


# ---- training


def test_it_learns_and_predicts_entities_with_their_places(trained):
    output, results = trained
    assert results["test_f1"] == results["test_accuracy"] == 1
    text = " Clara Smith  left new york."
    found = predict(output, [text, "", ["bert", "saw", "oslo"]])
    assert [(each["type"], each["text"]) for each in found[0]] == [("PER", "Clara Smith"), ("LOC", "new york")]
    assert all(
        text[each["start"] : each["end"]] == each["text"] and 0.5 < each["probability"] <= 1 for each in found[0]
    )
    assert found[1] == []
    assert [(each["type"], each["start"], each["end"]) for each in found[2]] == [("PER", 0, 4), ("LOC", 9, 13)]


def test_the_report_says_what_is_mistaken_for_what(trained):
    output, _ = trained
    page = (output / "report.html").read_text()
    tiles = re.findall(r"<dt>(.*?)</dt>", page)
    assert tiles[:2] == ["test f1", "test precision"] and tiles[4] == "test loss"  # what matters first
    assert "Finds entities of 2 types: LOC, PER. Sentences: 36 to train on, 12 to choose by, 12 to test on." in page
    assert all(said in page for said in ("By type", "Worst sentences", "scheme of the tags", "[new york]LOC")), page
    assert {"confusion_matrix.png", "lengths.png", "f1_by_class.png"} <= {
        each.name for each in (output / "figures").iterdir()
    }
    assert json.loads((output / "config.json").read_text())["hftrain"]["windows"] == {
        "max_seq_length": 24,
        "doc_stride": 6,
    }


def test_long_texts_are_predicted_as_in_windows_of_the_training(trained, tmp_path):
    output, _ = trained
    sentence = ["clara", "smith", "left", "oslo", "."]
    (found,) = predict(output, [sentence * 10])
    assert predict(without_the_key(output, tmp_path / "old"), [sentence * 10]) == [found]
    assert [(each["type"], each["text"]) for each in found] == [("PER", "clara smith"), ("LOC", "oslo")] * 10


def test_the_batch_size_changes_no_loss_and_no_prediction(trained, bert, folder, tmp_path):
    output, _ = trained
    config = configured(bert, tmp_path, train_file=folder / "a.conll")
    rows, _ = tagging.load_sentences(config, seed=1)
    long = [
        {"tokens": row["tokens"] * (1 + i % 5), "tags": row["tags"] * (1 + i % 5)}
        for i, row in enumerate(rows["train"])
    ]
    rows = datasets.Dataset.from_list(long)
    tokenizer, model = (
        AutoTokenizer.from_pretrained(output),
        AutoModelForTokenClassification.from_pretrained(output).eval(),
    )
    names = list(model.config.id2label.values())
    examples = tagging.tokenize(rows, tokenizer, names, config)
    collate = tagging.collator(tokenizer)
    scored = []
    for size in (1, 2, 7, 64):
        found = tagging.tag(Accelerator(), model, examples, size, collate)
        scored.append((tagging.score(found, rows["tags"], names, ["seqeval"])[0], [each.tags for each in found]))
    batch = collate(list(examples))
    with torch.no_grad():
        loss = float(tagging.loss().summed(model, batch)) / count_labels(batch)
    for scores, tags in scored:
        assert scores == pytest.approx(scored[0][0], rel=1e-6) and tags == scored[0][1]
        assert scores["loss"] == pytest.approx(loss, rel=1e-6)
    assert len(examples) > len(rows)


def test_parts_of_speech(bert, tmp_path):
    tags = {
        word: "VERB" if word in VERBS else "PUNCT" if word == "." else "NOUN" for row in sentences() for word in row[0]
    }
    (tmp_path / "a.conll").write_text(conll([(words, [tags[word] for word in words]) for words, _ in sentences()]))
    results = recipe.main(
        configured(bert, tmp_path / "out", train_file=tmp_path / "a.conll", max_steps=30, learning_rate=1e-2)
    )
    assert results["test_accuracy"] > 0.9 and "test_f1" not in results
    (found,) = predict(tmp_path / "out", ["anna saw rome."])
    assert [(each["text"], each["tag"]) for each in found] == [(w, tags[w]) for w in ("anna", "saw", "rome", ".")]


def test_adapters_and_their_head_are_what_predict_loads(bert, folder, tmp_path):
    config = configured(
        bert, tmp_path / "out", train_file=folder / "a.jsonl", use_peft=True, max_steps=40, learning_rate=2e-2
    )
    assert recipe.main(config)["test_f1"] > 0.9
    (found,) = predict(tmp_path / "out", ["anna saw new york"])
    assert [(each["type"], each["text"]) for each in found] == [("PER", "anna"), ("LOC", "new york")]


def test_words_of_a_text_and_their_places():
    text = "I'm @anna, see https://a.b/c?d #x-y 3.5 new-york…"
    words = words_of(text)
    told = ["I", "'m", "@anna", ",", "see", "https://a.b/c?d", "#x", "-", "y", "3.5", "new-york", "…"]
    assert [word.text for word in words] == told and all(text[w.start : w.end] == w.text for w in words)


def test_a_cased_byte_level_tokenizer_reads_words(tmp_path):
    """RoBERTa's: a word begins with the space before it."""
    from tokenizers import ByteLevelBPETokenizer

    learnt = ByteLevelBPETokenizer()
    learnt.train_from_iterator(
        ["anna likes new york ."] * 5, vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    )
    learnt.save_model(str(tmp_path))
    files = (str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    transformers.RobertaTokenizerFast(*files).save_pretrained(tmp_path)
    tokenizer = tagging.load_tokenizer(configured(tmp_path, tmp_path, train_file="a.conll"))
    columns, _ = tagging.cut_sentences(tokenizer, [["new", "york"]], [[1, 2]], max_seq_length=16, doc_stride=4)
    assert columns["input_ids"][0] == AutoTokenizer.from_pretrained(tmp_path)(" new york")["input_ids"]


# ---- processes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_train_and_score_as_one(bert, folder, tmp_path):
    """Both recipes of windows, tag and answer, whole and with adapters, one after the other in one launch."""
    text = "anna likes rome. bert left oslo. clara saw new york."
    asked = {"anna": "rome", "bert": "oslo", "clara": "new york"}
    rows = [
        {"title": f"article {number}", "context": text[number % 3 :], "question": f"where is {person}?",
         "answers": {"text": [place], "answer_start": [text.index(place) - number % 3]}}
        for number in range(12) for person, place in asked.items()
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = {"model_name_or_path": str(bert), "max_seq_length": 24, "doc_stride": 6, "max_steps": 6, "eval_steps": 3}
    shared |= {"learning_rate": 1e-3, "eval_batch_size": 5, "global_batch_size": 7}
    shared |= {"validation_split": 6, "test_split": 7}
    shared["model_config"] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    files = {"tag": str(folder / "a.conll"), "answer": str(tmp_path / "a.jsonl")}
    runs = [(name, adapters) for name in files for adapters in (False, True)]
    worker = f"""import runpy, sys
for name, adapters in {runs!r}:
    recipe = runpy.run_path(f"{ROOT}/recipes/{{name}}.py")
    own = {{"train_file": {files!r}[name], "output_dir": f"{{sys.argv[1]}}/{{name}}-{{adapters}}"}}
    recipe["main"](recipe[name.title() + "Config"](**{shared!r}, **own, use_peft=adapters))
"""
    (tmp_path / "worker.py").write_text(worker)
    for how, output in (([sys.executable], "one"), (launcher(), "two")):
        run(*how, tmp_path / "worker.py", tmp_path / output)
    for name, adapters in runs:
        folders = (tmp_path / where / f"{name}-{adapters}" for where in ("one", "two"))
        one, two = (json.loads((where / "all_results.json").read_text()) for where in folders)
        compared = [key for key in one if key.startswith(("eval_", "test_", "train_loss"))]
        assert "test_f1" in compared
        assert {key: two[key] for key in compared} == pytest.approx(
            {key: one[key] for key in compared}, rel=1e-6, abs=1e-6
        )
