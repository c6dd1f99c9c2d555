"""`hftrain predict` reads what the training of the model's task reads, with real (tiny, random) models."""

import json

import pytest

from hftrain import cli
from hftrain.predict import predict
from tests import tiny

WORDS = [
    *[
        "anna",
        "likes",
        "new",
        "york",
        ".",
        "oslo",
        "is",
        "a",
        "city",
        "who",
        "where",
        "in",
        "the",
        "of",
        "bert",
        "saw",
        "paris",
    ]
]
TAGS = ["O", "B-PER", "B-LOC", "I-LOC"]
SENTENCES = [["Anna", "likes", "New", "York", "."], ["Oslo", "is", "a", "city"]]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A BERT for each task, by the last part of its class; weights are large, so that outputs differ."""
    folder = tmp_path_factory.mktemp("models")
    words = [*WORDS, "?", "##s"]
    made = {}
    for task, names in (
        ("TokenClassification", TAGS),
        ("SequenceClassification", ["no", "yes"]),
        ("QuestionAnswering", "ab"),
    ):
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        kind = f"BertFor{task}"
        tiny.bert_folder(folder / task, words, kind, seed=3, initializer_range=1.0, **labels)
        made[task] = folder / task
    return made


@pytest.fixture(scope="module")
def tagged(models):
    """The tag of each word of `SENTENCES`, by the library."""
    found = [
        [word["tag"] for word in each] for each in predict(models["TokenClassification"], SENTENCES, each_word=True)
    ]
    assert len({tag for tags in found for tag in tags}) > 1
    return found


def run(model, *arguments):
    return cli.main(["predict", str(model), *map(str, arguments), "--device", "cpu"])


def column(words, tags, between="\t", *more):
    return "".join(between.join([word, *more, tag]) + "\n" for word, tag in zip(words, tags, strict=True))


# ---- words in columns


@pytest.mark.parametrize("name", ["a.conll", "a.bio", "a.txt", "a.tsv", "a.conll.gz"])
def test_conll_gets_its_tags_back_beside_the_words(models, tagged, tmp_path, capsys, name):
    gold = [["O", "O", "B-LOC", "I-LOC", "O"], ["B-LOC", "O", "O", "O"]]
    between = "\t" if name == "a.tsv" else " "
    head = f"-DOCSTART-{between}-X-{between}O\n\n" if name == "a.conll" else ""
    text = head + "\n".join(column(words, tags, between, "x") for words, tags in zip(SENTENCES, gold, strict=True))
    if name.endswith("gz"):
        import gzip

        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    else:
        (tmp_path / name).write_text(text)
    assert run(models["TokenClassification"], "--file", tmp_path / name) == 0
    beside = [
        [f"{tag}{between}{found}" for tag, found in zip(*both, strict=True)] for both in zip(gold, tagged, strict=True)
    ]
    wanted = head + "\n".join(column(w, t, between, "x") for w, t in zip(SENTENCES, beside, strict=True))
    assert capsys.readouterr().out == wanted


def test_words_without_tags_and_words_in_another_column(models, tagged, tmp_path, capsys):
    (tmp_path / "a.conll").write_text("\n".join("".join(f"{word}\n" for word in words) for words in SENTENCES))
    assert run(models["TokenClassification"], "--file", tmp_path / "a.conll") == 0
    assert capsys.readouterr().out == "\n".join(map(column, SENTENCES, tagged))
    numbered = [[f"{i}\t{word}" for i, word in enumerate(words)] for words in SENTENCES]
    (tmp_path / "b.conll").write_text("\n".join("".join(f"{word}\n" for word in words) for words in numbered))
    assert run(models["TokenClassification"], "--file", tmp_path / "b.conll", "--word_column", 2) == 0
    assert capsys.readouterr().out == "\n".join(map(column, numbered, tagged))


def test_names_of_columns_and_comments_stay(models, tagged, tmp_path):
    rows = column(SENTENCES[1], ["O"] * 4)
    (tmp_path / "a.conll").write_text(f"word\tner\n# a comment\n{rows}")
    out = tmp_path / "out.conll"
    assert run(models["TokenClassification"], "--file", tmp_path / "a.conll", "--output", out) == 0
    beside = [f"O\t{tag}" for tag in tagged[1]]
    assert out.read_text() == "word\tner\ttag\n# a comment\n" + column(SENTENCES[1], beside)
    assert run(models["TokenClassification"], "--file", out) == 0  # and can be read again


def test_universal_dependencies_keep_their_ten_columns(models, tagged, tmp_path, capsys):
    def lines(tags):
        made = [["# text"], ["1-2", "Oslos", *"________"]]
        made += [
            [str(i), word, "_", tag, *"______"] for i, (word, tag) in enumerate(zip(SENTENCES[1], tags, strict=True), 1)
        ]
        return "".join("\t".join(fields) + "\n" for fields in made)

    (tmp_path / "a.conllu").write_text(lines(["X"] * 4))
    assert run(models["TokenClassification"], "--file", tmp_path / "a.conllu") == 0
    assert capsys.readouterr().out == lines(tagged[1])


def test_prose_stays_prose(models, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("Anna likes New York .\n\nOslo is a city\n")
    assert run(models["TokenClassification"], "--file", tmp_path / "a.txt") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_tables_with_a_word_a_row_and_lists_in_columns(models, tagged, tmp_path, capsys):
    numbered = [(i, word) for i, words in enumerate(SENTENCES) for word in words]
    (tmp_path / "a.csv").write_text("sentence,word,tag\n" + "".join(f"{i},{word},O\n" for i, word in numbered))
    (tmp_path / "b.csv").write_text("tokens\n" + "".join(f'"{words}"\n' for words in SENTENCES))
    (tmp_path / "c.csv").write_text("tokens,tags\n" + "".join(f"{' '.join(w)},{'O ' * len(w)}\n" for w in SENTENCES))
    wanted = predict(models["TokenClassification"], SENTENCES)
    for name in ("a.csv", "b.csv", "c.csv"):
        assert run(models["TokenClassification"], "--file", tmp_path / name) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["prediction"] for row in rows] == wanted, name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "Anna O\nlikes\n", "a.conll, line 2: 1 columns, expected 2"),
        ("a.conll", '{"tokens": []}\n', "contains JSON"),
        ("a.jsonl", '{"word": "a"}\n', "a.jsonl, line 1: set --column to one of word"),
        ("a.csv", "good,1\nbad,0\n", "one of good, 1; if these are values of the first row, name the columns by"),
    ],
)
def test_what_is_wrong_is_named(models, tmp_path, capsys, name, content, message):
    (tmp_path / name).write_text(content)
    assert run(models["TokenClassification"], "--file", tmp_path / name) == 2
    assert message in capsys.readouterr().err


def test_output_is_called_what_it_is(models, tmp_path, capsys):
    (tmp_path / "a.conll").write_text("Anna O\n")
    assert run(models["TokenClassification"], "--file", tmp_path / "a.conll", "--output", tmp_path / "o.jsonl") == 2
    assert "use the ending .conll" in capsys.readouterr().err and not (tmp_path / "o.jsonl").exists()


# ---- questions

CONTEXT = "Anna saw Paris . Bert likes Oslo ."


def test_squad_is_read_as_it_is(models, tmp_path, capsys):
    asked = [
        {"id": f"q{i}", "question": text, "answers": []}
        for i, text in enumerate(("who saw paris ?", "where is bert ?"))
    ]
    articles = [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": asked}]}]
    (tmp_path / "a.json").write_text(json.dumps({"version": "1", "data": articles}))
    assert run(models["QuestionAnswering"], "--file", tmp_path / "a.json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = predict(models["QuestionAnswering"], [each["question"] for each in asked], pairs=[CONTEXT] * 2)
    assert [(row["id"], row["prediction"]) for row in rows] == [("q0", wanted[0]), ("q1", wanted[1])]


def test_questions_on_the_command_line(models, tmp_path, capsys):
    def answers(*arguments):
        assert run(models["QuestionAnswering"], *arguments) == 0
        return [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]

    other = "Oslo is a city in the new york of anna ."
    (tmp_path / "context.txt").write_text(CONTEXT)
    questions = ["who saw paris ?", "where is bert ?"]
    pairs = [(question, context) for question in questions for context in (CONTEXT, other)]
    found = predict(models["QuestionAnswering"], [pair[0] for pair in pairs], pairs=[pair[1] for pair in pairs])
    wanted = {pair: " ".join(each["answer"].split()) for pair, each in zip(pairs, found, strict=True)}
    assert len(set(wanted.values())) > 1
    one = answers(questions[0], "--context", CONTEXT)
    assert one == answers(questions[0], "--context_file", tmp_path / "context.txt") == [wanted[questions[0], CONTEXT]]
    assert answers(*questions, "--context", CONTEXT) == [wanted[question, CONTEXT] for question in questions]
    each = [wanted[questions[0], CONTEXT], wanted[questions[1], other]]
    assert answers(*questions, "--context", CONTEXT, "--context", other) == each
    both = [wanted[questions[0], CONTEXT], wanted[questions[0], other]]
    assert answers(questions[0], "--context", CONTEXT, "--context", other) == both
    (tmp_path / "q.txt").write_text("\n".join(questions))
    assert answers("--file", tmp_path / "q.txt", "--context", CONTEXT) == [wanted[q, CONTEXT] for q in questions]


def test_the_columns_of_questions_are_known_and_contexts_that_do_not_fit_are_refused(models, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "who ?", "context": CONTEXT}) + "\n")
    assert run(models["QuestionAnswering"], "--file", tmp_path / "a.jsonl") == 0
    assert json.loads(capsys.readouterr().out)["prediction"]["n_best"]
    assert run(models["QuestionAnswering"], "--file", tmp_path / "a.jsonl", "--context", "b") == 2
    assert "the rows of the file already have a second text" in capsys.readouterr().err
    assert run(models["QuestionAnswering"], "who ?") == 2
    assert 'give it with --context "..."' in capsys.readouterr().err
    assert run(models["QuestionAnswering"], "a ?", "b ?", "--context", *("c", "--context", "d", "--context", "e")) == 2
    assert "2 texts, but 3 contexts" in capsys.readouterr().err
    assert run(models["TokenClassification"], "anna", "--context", "b") == 2
    assert "which reads single texts" in capsys.readouterr().err


def test_a_second_text_of_a_pair_on_the_command_line(models, capsys):
    assert run(models["SequenceClassification"], "anna saw paris", "--context", "bert is in oslo") == 0
    (found,) = predict(models["SequenceClassification"], ["anna saw paris"], pairs=["bert is in oslo"])
    assert capsys.readouterr().out == f"{found['label']}\t{found['probability']:.4f}\n"
