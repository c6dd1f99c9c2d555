"""What other tools write for tagging: places of entities, tables with a word a row, lists as text; tokenizers that need
a space before a word."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from hftrain.config import DataConfig
from hftrain.tasks import tagging
from hftrain.tasks.tagging.examples import before_words
from hftrain.tasks.tagging.spans import tag_words, words_of

pytestmark = pytest.mark.unit

TEXT = "Zoë Ng left Berlin-based Acme 🙂 for Oslo."
SPANS = [[0, 6, "PER"], [12, 18, "LOC"], [25, 29, "ORG"], [36, 40, "LOC"]]
WORDS = ["Zoë", "Ng", "left", "Berlin", "-", "based", "Acme", "🙂", "for", "Oslo", "."]
TAGS = ["B-PER", "I-PER", "O", "B-LOC", "O", "O", "B-ORG", "O", "O", "B-LOC", "O"]


@dataclass
class Settings(tagging.TaggingConfig, DataConfig):
    """What `load_sentences` reads."""


def load(path: Path, **settings: Any) -> list[tuple[list[str], list[str]]]:
    """The words and tags of each sentence."""
    config = Settings(**{"train_file": str(path), "validation_split": 1, "test_split": 1} | settings)
    rows, _ = tagging.load_sentences(config, seed=0)
    return [(row["tokens"], row["tags"]) for split in rows.values() for row in split]


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Each row several times, with a sentence of its own each, so that all splits have some."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def objects(**names: str) -> list[dict[str, Any]]:
    keys = [names.get(key, key) for key in ("start", "end", "label")]
    return [dict(zip(keys, span, strict=True)) for span in SPANS]


# ---- places of entities


@pytest.mark.parametrize(
    ("column", "spans"),
    [
        ("label", SPANS),
        ("labels", SPANS),
        ("entities", objects()),
        ("spans", objects(label="type")),
        ("entities", objects(label="entity_group")),
        ("entities", objects(start="start_offset", end="end_offset")),
        (
            "label",
            [{"start": s, "end": e, "text": TEXT[s:e], "labels": [kind]} for s, e, kind in SPANS],
        ),  # Label Studio
        ("entities", str(SPANS)),  # as pandas writes lists
        ("entities", [*SPANS[::-1], SPANS[0], [7, 11, "O"]]),  # in any order, twice, and what is none
    ],
)
def test_places_become_tags(tmp_path, column, spans):
    rows = [{"id": n, "text": TEXT + " x" * n, column: spans} for n in range(4)]
    found = sorted(load(write_rows(tmp_path / "a.jsonl", rows)))
    assert found == [(WORDS + ["x"] * n, TAGS + ["O"] * n) for n in range(4)]


def test_tokens_of_prodigy_are_not_needed(tmp_path):
    tokens = [{"text": word.text, "start": word.start, "end": word.end} for word in words_of(TEXT)]
    rows = [{"text": TEXT + " x" * n, "tokens": tokens, "spans": objects()} for n in range(4)]
    assert sorted(load(write_rows(tmp_path / "a.jsonl", rows)))[0] == (WORDS, TAGS)


@pytest.mark.parametrize(
    ("span", "why"),
    [
        ([0, 5, "PER"], r"'Zoë N', ends inside a word; if its last character is included it is 'Zoë Ng'"),
        ([1, 6, "PER"], r"'oë Ng', begins inside a word"),
        ([26, 30, "ORG"], r"'cme ', begins inside a word; counted in bytes it is 'Acme'"),
        ([37, 41, "LOC"], r"'slo\.', begins inside a word; counted in UTF-16|'slo\.', begins inside a word"),
        ([5, 3, "PER"], r"does not lie in its text, which has 41 characters"),
        ([0, 99, "PER"], r"does not lie in its text"),
        (["0", "6", "PER"], r"does not lie in its text"),
        ([0, 6, None], r"the type of the span .* is null"),
        ([0, 6, "B-PER"], r"has a prefix: write only PER"),
        ([0, 6], r"a span is \[start, end, type\]"),
        ({"start": 0, "end": 6, "label": "PER", "text": "Ann"}, r"is at 'Zoë Ng'"),
        ([3, 4, "PER"], r"3-4 \(PER\) contains no word"),
    ],
)
def test_places_that_do_not_fit_are_named(tmp_path, span, why):
    rows = [{"text": "Nobody.", "entities": []}, {"text": TEXT, "entities": [span]}]
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2: .*{why}"):
        load(write_rows(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize("spans", [[[0, 6, "PER"], [4, 6, "LOC"]], [[0, 6, "PER"], [0, 6, "ORG"]]])
def test_nested_places_are_named(tmp_path, spans):
    with pytest.raises(ValueError, match=r"'Zoë Ng' .* and .* overlap, but a word has only one tag"):
        load(write_rows(tmp_path / "a.jsonl", [{"text": TEXT, "entities": spans}]))


def test_words_of_scripts_without_spaces():
    assert tag_words("我爱北京。", [[2, 4, "LOC"]]) == (
        ["我", "爱", "北", "京", "。"],
        ["O", "O", "B-LOC", "I-LOC", "O"],
    )
    assert tag_words("ไปกรุงเทพ", [[2, 9, "LOC"]])[1][:3] == ["O", "O", "B-LOC"]
    assert [word.text for word in words_of("हिन्दी में e\u0301te\u0301")] == ["हिन्दी", "में", "e\u0301te\u0301"]


# ---- tables

TABLE = [("Ada", "B-PER"), ("went", "O"), ("to", "O"), ("Rome", "B-LOC")]


def write_table(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    return path


@pytest.mark.parametrize("file", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("form", ["first", "every", "blank"])
def test_a_word_a_row(tmp_path, caplog, file, form):
    rows: list[list[Any]] = []
    for number in range(1, 5):
        for place, (word, tag) in enumerate([*TABLE, (str(number), "O")]):
            numbers = {"first": f"Sentence: {number}" if not place else "", "every": number, "blank": "x"}
            rows.append([numbers[form], word, "NN", tag])
        if form == "blank":
            rows.append([])
    header = {"first": "Sentence #", "every": "sent_id", "blank": "Doc"}[form]
    found = sorted(load(write_table(tmp_path / file, [header, "Word", "POS", "Tag"], rows)))
    assert "is read with one word per row, columns" in caplog.text and "ignored columns: " in caplog.text
    words, tags = ([pair[side] for pair in TABLE] for side in (0, 1))
    assert found == [([*words, str(number)], [*tags, "O"]) for number in range(1, 5)]


def test_columns_of_a_table_by_name(tmp_path):
    rows = [[n // 2, f"w{n}", "X", "B-A" if n % 2 else "O"] for n in range(8)]
    path = write_table(tmp_path / "a.csv", ["satz", "wort", "Tag", "marke"], rows)
    names = {"sentence_column": "satz", "tokens_column": "wort", "tags_column": "marke"}
    assert sorted(load(path, **names))[1] == (["w2", "w3"], ["O", "B-A"])
    with pytest.raises(ValueError, match=r"no column 'satzz'; .* did you mean 'satz'\? \(sentence_column\)"):
        load(path, **names | {"sentence_column": "satzz"})
    with pytest.raises(ValueError, match="no column 'tokens'; there are 'satz', 'wort'"):
        load(path)


def test_faults_of_a_table_are_named(tmp_path):
    good = [[1, "a", "O"], [1, "b", "B-X"], [2, "c", "O"], [3, "d", "O"], [5, "e", "O"]]
    for more, message in [
        ([[1, "e", "O"]], "line 7: the sentence '1' is in two places"),
        ([[4, "e", ""]], "line 7: column 'tag' is empty"),
        ([[4, "", "O"]], "line 7: column 'word' is empty"),
        ([[4, "e"]], "line 7: 2 fields, but the first line names 3"),
        ([[4, "e", "I-X"]], r"line 7: word 1, 'e': I-X at the beginning, where an entity should begin with B- .*IOB2"),
    ]:
        path = write_table(tmp_path / "a.csv", ["sentence", "word", "tag"], good + more)
        with pytest.raises(ValueError, match=message):
            load(path, label_scheme="IOB2")
        left = load(path, label_scheme="IOB2", max_bad_rows=1)
        assert len(left) == (3 if len(more[0]) == 2 else 4)  # of a broken row it is unknown whose it is


def test_iob1_and_bilou_in_a_table(tmp_path):
    header, words = ["sentence_id", "token", "ner"], ["I-X", "B-X", "O"]
    path = write_table(
        tmp_path / "a.csv", header, [[n, f"w{n}{i}", tag] for n in range(4) for i, tag in enumerate(words)]
    )
    assert all(tags == words for _, tags in load(path))
    words = ["B-X", "L-X", "U-X"]
    path = write_table(
        tmp_path / "a.csv", header, [[n, f"w{n}{i}", tag] for n in range(4) for i, tag in enumerate(words)]
    )
    with pytest.raises(ValueError, match="the tags are BILOU: rename L- to E- and U- to S-"):
        load(path)


@pytest.mark.parametrize(
    ("words", "tags"),
    [
        ("['Ada', 'went', '{}']", "['B-PER', 'O', 'O']"),
        ("['Ada' 'went' '{}']", "['B-PER' 'O' 'O']"),
        ('["Ada", "went", "{}"]', '["B-PER", "O", "O"]'),
        ("Ada went {}", "B-PER O O"),
    ],
)
@pytest.mark.parametrize("file", ["a.csv", "a.tsv"])
def test_a_sentence_a_row(tmp_path, file, words, tags):
    path = tmp_path / file
    mark = "\t" if path.suffix == ".tsv" else ","
    lines = [(words.format(n), tags) for n in range(4)]
    if path.suffix == ".tsv":
        path.write_text("".join(mark.join(line) + "\n" for line in [("tokens", "tags"), *lines]))
    else:
        write_table(path, ["tokens", "tags"], [list(line) for line in lines])
    assert sorted(load(path))[2] == (["Ada", "went", "2"], ["B-PER", "O", "O"])


def test_a_line_that_names_the_columns_is_no_word(tmp_path, caplog):
    (tmp_path / "a.conll").write_text("word\tpos\ttag\n" + "".join(f"w{n}\tNN\tO\nv\tNN\tB-X\n\n" for n in range(4)))
    assert sorted(load(tmp_path / "a.conll"))[0] == (["w0", "v"], ["O", "B-X"])
    assert "line 1 names the columns and is not read as a word" in caplog.text
    (tmp_path / "a.tsv").write_text("".join(f"w{n}\tO\nv\tB-X\n\n" for n in range(4)))  # CoNLL still
    assert sorted(load(tmp_path / "a.tsv"))[0] == (["w0", "v"], ["O", "B-X"])


# ---- tokenizers


def tokenizer_of(kind: str) -> transformers.PreTrainedTokenizerFast:
    """One trained on the spot, without a class of its own."""
    learnt = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE())
    if kind in ("bytes", "split"):
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "bytes")
        split = pre_tokenizers.Split(Regex(" ?[a-z]+| ?[^ a-z]+"), "isolated")  # as Llama 3 and Qwen
        learnt.pre_tokenizer = byte_level if kind == "bytes" else pre_tokenizers.Sequence([split, byte_level])
        learnt.decoder = decoders.ByteLevel()
    elif kind == "replaced":  # as Gemma
        learnt.normalizer = normalizers.Replace(" ", "▁")
        learnt.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    else:
        learnt.pre_tokenizer = pre_tokenizers.Metaspace()
    texts = ["one two three anna went to rome, as one two three do."] * 5
    options: dict[str, Any] = {"vocab_size": 300, "special_tokens": ["<s>", "</s>", "<unk>"], "show_progress": False}
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind in ("bytes", "split") else []
    trainer: Any = trainers.UnigramTrainer if kind == "unigram" else trainers.BpeTrainer
    options |= {"unk_token": "<unk>"} if kind == "unigram" else {"initial_alphabet": alphabet}
    learnt.train_from_iterator(texts, trainer(**options))
    template = {"single": "<s> $A </s>", "special_tokens": [("<s>", 0), ("</s>", 1)]}
    learnt.post_processor = processors.TemplateProcessing(**template)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=learnt, **special)


@pytest.mark.parametrize("kind", ["bytes", "split", "replaced", "unigram"])
def test_words_have_the_tokens_of_running_text(kind):
    tokenizer = tokenizer_of(kind)
    assert before_words(tokenizer) == ("" if kind == "unigram" else " ")
    words = ["anna", "went", "to", "rome"]
    columns, _ = tagging.cut_sentences(tokenizer, [words], [[1, 0, 0, 2]], max_seq_length=32, doc_stride=4)
    assert (
        columns["input_ids"][0] == tokenizer(" " + " ".join(words) if kind != "unigram" else " ".join(words)).input_ids
    )


def test_a_tokenizer_that_reads_no_words_is_refused():
    learnt = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate("onetwhr ")}, merges=[]))
    learnt.add_tokens(["one two three"])
    with pytest.raises(ValueError, match="gives separate words other tokens than in a text"):
        before_words(transformers.PreTrainedTokenizerFast(tokenizer_object=learnt))


def test_columns_that_nothing_reads_are_named(tmp_path, caplog):
    load(
        write_rows(
            tmp_path / "a.jsonl", [{"tokens": [f"w{n}"], "tags": ["O"], "pos": ["X"], "id": n} for n in range(4)]
        )
    )
    assert "columns that are not read: id (4 rows), pos (4 rows)" in caplog.text
