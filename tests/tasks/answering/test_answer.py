"""The question answering recipe as it is used: from SQuAD's JSON or rows to a folder that finds answers in any text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from hftrain.config import ConfigError
from hftrain.deploy.merge import merge
from hftrain.losses import count_labels
from hftrain.models.saved import read_config, recall
from hftrain.predict import predict
from hftrain.tasks import answering
from hftrain.tasks.answering import Found, Span, losses
from recipes import answer as recipe
from tests import ROOT, tiny
from tests.old_folders import without_the_key

RECIPE = ROOT / "recipes" / "answer.py"
PEOPLE, PLACES = ["anna", "bert", "clara", "david", "emil"], ["rome", "oslo", "paris", "new york", "bern"]
WORDS = sorted({word for name in [*PEOPLE, *PLACES, "where who is in lives the"] for word in name.split()})


def questions(count: int = 60, unanswerable: bool = False) -> list[dict[str, Any]]:
    """ "where is?" or "who is?", of "the lives anna is in new york . the"; every third without an answer if wanted."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(count):
        said = {"who": str(draw.choice(PEOPLE)), "where": str(draw.choice(PLACES))}
        asked = str(draw.choice(["who", "where"]))
        answers = [said[asked]]
        if unanswerable and number % 3 == 0:
            answers, said[asked] = [], "the"
        before, after = (draw.choice(["the", "lives", "."], draw.integers(10)).tolist() for _ in "ab")
        context = " ".join([*before, said["who"], "is", "in", said["where"], *after])
        row = {"id": f"q{number}", "title": f"article {number // 4}", "context": context, "question": f"{asked} is?"}
        rows.append(row | {"answers": {"text": answers, "answer_start": [context.index(text) for text in answers]}})
    return rows


def squad(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows as SQuAD has them."""
    articles: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
        question = {"id": row["id"], "question": row["question"], "answers": answers, "is_impossible": not answers}
        articles.setdefault(row["title"], []).append({"context": row["context"], "qas": [question]})
    return {"version": "2.0", "data": [{"title": title, "paragraphs": texts} for title, texts in articles.items()]}


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A small BERT with a real WordPiece tokenizer."""
    size = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    size |= {"initializer_range": 0.1}  # a small one learns little from smaller weights
    return tiny.bert_folder(tmp_path_factory.mktemp("bert"), [".", "?", *WORDS], **size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    (folder / "v1.json").write_text(json.dumps(squad(questions()), indent=1))
    (folder / "v2.json").write_text(json.dumps(squad(questions(400, unanswerable=True))))
    (folder / "flat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions()))
    return folder


def configured(bert: Path, output_dir: Path, **settings: Any) -> Any:
    defaults: dict[str, Any] = {"model_name_or_path": str(bert), "max_steps": 2, "eval_steps": 0, "save_steps": 0}
    defaults |= {"logging_steps": 1, "output_dir": str(output_dir), "max_seq_length": 20, "doc_stride": 6}
    defaults |= {"validation_split": 12, "test_split": 12}
    return recipe.AnswerConfig(**defaults | {key: str(v) if isinstance(v, Path) else v for key, v in settings.items()})


@pytest.fixture(scope="module")
def trained(bert, folder, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("answer") / "out"
    long = {"max_steps": 100, "learning_rate": 5e-3, "global_batch_size": 32, "lr_scheduler_type": "cosine"}
    config = configured(bert, output, train_file=folder / "v2.json", **long)
    return output, recipe.main(config)


# ---- rows


@pytest.mark.parametrize("source", ["v1.json", "flat.jsonl"])
def test_every_form_says_the_same_and_articles_stay_together(bert, folder, tmp_path, source):
    rows = answering.load_questions(configured(bert, tmp_path, train_file=folder / source), seed=1)
    every = sorted((row for split in rows.values() for row in split), key=lambda row: int(row["id"][1:]))
    names = ("id", "title", "context", "question")
    assert [[row[name] for name in names] for row in every] == [[row[name] for name in names] for row in questions()]
    assert [(row["answers"], row["starts"]) for row in every] == [tuple(row["answers"].values()) for row in questions()]
    titles = [set(split["title"]) for split in rows.values()]
    assert not (titles[0] & titles[1] or titles[0] & titles[2] or titles[1] & titles[2])
    assert {name: len(split) for name, split in rows.items()} == {"train": 36, "validation": 12, "test": 12}


def test_rows_without_an_article_stay_with_their_context(bert, folder, tmp_path):
    rows = questions(20) + [row | {"question": "who is in rome?"} for row in questions(20)]
    flat = [{name: value for name, value in row.items() if name not in ("title", "id")} for row in rows]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in flat))
    found = answering.load_questions(configured(bert, tmp_path, train_file=tmp_path / "a.jsonl"), seed=1)
    assert all(len(split) == 2 * len(set(split["context"])) for split in found.values())


def test_answers_that_do_not_stand_where_they_should_are_named(bert, tmp_path):
    rows = questions(12)
    right = rows[2]["answers"]["answer_start"][0]
    rows[2]["answers"] = {"text": rows[2]["answers"]["text"], "answer_start": [right - 1]}
    rows[7]["answers"] = {"text": ["atlantis"], "answer_start": [5]}
    (tmp_path / "a.json").write_text(json.dumps(squad(rows), indent=1))
    lines = (tmp_path / "a.json").read_text().split("\n")
    config = configured(bert, tmp_path, train_file=tmp_path / "a.json", validation_split=4, test_split=4)
    with pytest.raises(ValueError) as error:
        answering.load_questions(config, seed=1)
    said = str(error.value)
    for number, why in ((2, f"it is at {right}"), (7, "the context does not contain it")):
        line = next(i for i, text in enumerate(lines, 1) if f'"id": "q{number}"' in text)
        assert f"a.json, line {line}: question 'q{number}': the answer " in said and why in said
    config.max_bad_rows = 2
    assert sum(len(split) for split in answering.load_questions(config, seed=1).values()) == 10


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"context": None}, "column 'context' is null"),
        ({"question": " "}, "column 'question' is empty"),
        ({"answers": {"words": ["rome"]}}, "column 'answers' lacks text and answer_start: {'words': ['rome']}"),
        ({"answers": {"text": ["rome"], "answer_start": []}}, "column 'answers' has lists of different lengths"),
        ({"answers": {"text": ["rome"], "answer_start": ["3.5"]}}, "answer_start is not a whole number: '3.5'"),
        ({"answers": {"text": [""], "answer_start": [3]}}, "an answer in column 'answers' is empty"),
    ],
)
def test_bad_rows_are_named(bert, tmp_path, change, why):
    rows = [questions(1)[0], questions(1)[0] | change]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError) as error:
        answering.load_questions(configured(bert, tmp_path, train_file=tmp_path / "a.jsonl"), seed=1)
    assert f"a.jsonl, line 2: {why}" in str(error.value)


def test_training_questions_without_any_answer(bert, tmp_path):
    none = {"text": [], "answer_start": []}
    (tmp_path / "a.json").write_text(json.dumps(squad([row | {"answers": none} for row in questions(40)])))
    with pytest.raises(ValueError, match="none of 16 training questions has an answer: check answers_column"):
        answering.load_questions(configured(bert, tmp_path, train_file=tmp_path / "a.json"), seed=1)


def test_metrics_are_refused_before_training(bert, folder, tmp_path):
    settings = {"train_file": folder / "v2.json", "metrics": ["squad"]}
    with pytest.raises(ValueError, match="metrics of the validation rows: a question has no answer: score this data"):
        recipe.main(configured(bert, tmp_path / "out", **settings))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_json_that_is_not_of_squads_form(bert, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"title": "a", "paragraphs": [{"qas": [{"id": "q"}]}]}]}))
    with pytest.raises(
        ValueError, match=r"a\.json, line 1: not SQuAD's format, so no question after it can be read: no 'context'"
    ):
        answering.load_questions(configured(bert, tmp_path, train_file=tmp_path / "a.json"), seed=1)


def test_settings_that_cannot_be(bert, tmp_path):
    with pytest.raises(ConfigError, match="model_name_or_path: the task needs a pretrained model"):
        recipe.AnswerConfig(train_file="a.json")
    with pytest.raises(ConfigError, match="metric 'seqeval' does not fit question_answering"):
        configured(bert, tmp_path, train_file="a.json", metrics=["seqeval"])
    tokenizer = AutoTokenizer.from_pretrained(bert)
    with pytest.raises(ValueError, match="a question of 9 tokens leaves 4 tokens of a window for its context"):
        answering.cut_contexts(tokenizer, ["anna " * 9], ["rome"], [None], max_seq_length=16, doc_stride=4)


# ---- windows


def test_windows_have_the_answer_or_point_at_the_null_token(bert):
    tokenizer = AutoTokenizer.from_pretrained(bert)
    rows = questions(40)
    spans = [(s, s + len(t)) for row in rows for t, s in zip(*row["answers"].values(), strict=True)]
    texts = [row["question"] for row in rows], [row["context"] for row in rows]
    columns, counts = answering.cut_contexts(tokenizer, *texts, spans, max_seq_length=16, doc_stride=5)
    examples = [dict(zip(columns, each, strict=True)) for each in zip(*columns.values(), strict=True)]
    question, with_answer = -1, [0] * len(rows)
    for each in examples:
        question += each["part"] == 0
        places = list(zip(each["offsets"][::2], each["offsets"][1::2], strict=True))
        whole = places[0][0] <= spans[question][0] and spans[question][1] <= places[-1][1]
        if whole:
            first, last = (place - each["begin"] for place in each["labels"])
            assert (places[first][0], places[last][1]) == spans[question]
        else:
            assert each["labels"] == [each["null"]] * 2 and each["input_ids"][each["null"]] == tokenizer.cls_token_id
        with_answer[question] += whole
    assert min(with_answer) == 1 and max(with_answer) > 1 and counts["questions in windows"] > len(rows) / 3
    assert counts["windows without the answer"] == len(examples) - sum(with_answer)


def test_a_context_of_which_the_tokenizer_sees_nothing(bert):
    columns, _ = answering.cut_contexts(
        AutoTokenizer.from_pretrained(bert), ["where"], ["\u200b"], [(0, 1)], max_seq_length=16, doc_stride=4
    )
    assert columns["offsets"] == [[]] and columns["labels"] == [[0, 0]]


def test_windows_join_to_questions():
    examples = [{"part": 0, "begin": 2, "offsets": [0, 4, 5, 7]}, {"part": 1, "begin": 2, "offsets": [5, 7, 8, 11]}]
    examples += [{"part": 0, "begin": 3, "offsets": [0, 2]}]
    windows = [
        (np.array([[2, 3, -1.0], [3, 3, -2.0]]), -0.5, 1.0),
        (np.array([[2, 2, -1.5], [3, 3, -3.0]]), -4.0, 2.0),
        (np.zeros((0, 3)), -0.1, 3.0),
    ]
    first, second = answering.join(examples, windows, 2)
    assert first == Found([Span(0, 7, -1.0), Span(5, 7, -1.5)], -4.0, 3.0) and second == Found([], -0.1, 3.0)
    shares, none = answering.probabilities(first)
    assert sum(shares) + none == pytest.approx(1) and shares[0] / none == pytest.approx(np.exp(3))
    assert answering.best_answers([first, second], ["anna is", "in"]) == ["anna is", ""]
    assert answering.best_answers([first], ["anna is"], threshold=none / 2) == [""]


# ---- training


def test_it_learns_to_answer_and_that_there_is_no_answer(trained):
    output, results = trained
    assert results["test_f1"] > 85 and min(results["test_HasAns_f1"], results["test_NoAns_f1"]) > 50
    context = "The lives .  Anna is in New York ."
    found = predict(output, ["where is?", "who is?", "where is?"], pairs=[context, context, "anna is in the ."])
    assert [each["answer"] for each in found] == ["New York", "Anna", ""]
    assert context[found[0]["start"] : found[0]["end"]] == "New York"


def test_the_best_span_of_all_is_found(bert):
    """Against every pair of tokens, one by one."""
    model = AutoModelForQuestionAnswering.from_pretrained(bert).eval()
    tokenizer = AutoTokenizer.from_pretrained(bert)
    rows = questions(6)
    texts = [row["question"] for row in rows], [row["context"] for row in rows]
    columns, _ = answering.cut_contexts(tokenizer, *texts, [None] * 6, max_seq_length=20, doc_stride=6)
    examples = [dict(zip(columns, each, strict=True)) for each in zip(*columns.values(), strict=True)]
    batch = answering.collator(tokenizer, model)(examples)
    with torch.no_grad():
        found = answering.find_spans(model, batch, n_best_size=20, max_answer_length=3)
        for example, (spans, null, loss) in zip(examples, found, strict=True):
            inputs = {name: torch.tensor([example[name]]) for name in ("input_ids", "token_type_ids")}
            output = model(**inputs)
            end = example["begin"] + len(example["offsets"]) // 2
            allowed = [example["null"], *range(example["begin"], end)]
            ends = [logits[0, allowed].log_softmax(0) for logits in (output.start_logits, output.end_logits)]
            score = {
                (a, b): float(ends[0][i] + ends[1][j]) for i, a in enumerate(allowed) for j, b in enumerate(allowed)
            }
            best = max(((a, b) for a, b in score if a > example["null"] and 0 <= b - a < 3), key=score.__getitem__)
            assert tuple(spans[0][:2]) == best and spans[0][2] == pytest.approx(score[best], abs=1e-5)
            assert null == pytest.approx(score[0, 0], abs=1e-5) and loss == pytest.approx(-null, abs=1e-5)


def test_the_batch_size_changes_no_loss_and_no_answer(trained, bert, folder, tmp_path):
    """BertForQuestionAnswering's own softmax sees padding."""
    output, _ = trained
    config = configured(bert, tmp_path, train_file=folder / "v2.json", max_seq_length=30)
    rows = answering.load_questions(config, seed=1)["train"]
    tokenizer, model = (
        AutoTokenizer.from_pretrained(output),
        AutoModelForQuestionAnswering.from_pretrained(output).eval(),
    )
    examples = answering.tokenize(rows, tokenizer, config)
    collate = answering.collator(tokenizer, model)
    scored = []
    for config.eval_batch_size in (1, 2, 7, 64):
        found = answering.answer(Accelerator(), model, examples, config, collate)
        scores = answering.score(found, rows, len(examples), ["squad_v2"])
        scored.append((scores, answering.best_answers(found, rows["context"])))
    batch = collate(list(examples))
    with torch.no_grad():
        loss = float(answering.loss().summed(model, batch)) / count_labels(batch)
    assert len(set(map(len, examples.column("input_ids")))) > 1  # something is padded
    for scores, answers in scored:
        assert scores == pytest.approx(scored[0][0], rel=1e-6) and answers == scored[0][1]
        assert scores["loss"] == pytest.approx(loss, rel=1e-6)


def test_label_smoothing_spreads_over_what_may_be_answered():
    scores = torch.tensor([[1.0, 2.0, -torch.inf, 0.5]]).log_softmax(dim=1)
    allowed = scores[:, [0, 1, 3]]
    smooth = torch.nn.functional.cross_entropy(allowed, torch.tensor([1]), label_smoothing=0.3)
    found = losses.span_losses(scores, scores, torch.tensor([[1, 1]]), 0.3)
    assert found.tolist() == pytest.approx([2 * float(smooth)])


def test_the_threshold_is_chosen_on_validation_rows_and_saved(trained, tmp_path):
    output, results = trained
    settings = json.loads((output / "config.json").read_text())["hftrain"]["answering"]
    assert settings["no_answer_threshold"] == results["eval_no_answer_threshold"] and settings["max_seq_length"] == 20
    assert not [name for name in results if name.endswith("_total")]  # the report's data say how many there are
    assert {"test_exact", "test_f1", "test_HasAns_f1", "test_NoAns_f1"} <= results.keys()
    assert "test_no_answer_threshold" not in results
    row, old = questions(1)[0], without_the_key(output, tmp_path / "old")
    asked = {"texts": [row["question"]], "pairs": [row["context"]]}
    assert predict(output, **asked) == predict(old, **asked)
    assert recall(read_config(old), "answering") == settings


def test_a_threshold_leaves_questions_open(folder, bert, tmp_path):
    rows = answering.load_questions(configured(bert, tmp_path, train_file=folder / "v2.json"), seed=1)["train"]
    found = []
    for row in rows:  # the model is sure of what has an answer, and half sure, but wrong, of what has none
        start = row["starts"][0] if row["answers"] else row["context"].index("is")
        end = start + len(row["answers"][0] if row["answers"] else "is")
        found.append(Found([Span(start, end, 0.0)], -2.0 if row["answers"] else -1.0))
    threshold = answering.choose_threshold(found, rows)
    unsure = {
        bool(answers): answering.probabilities(each)[1] for answers, each in zip(rows["answers"], found, strict=True)
    }
    assert unsure[True] < threshold == (unsure[True] + unsure[False]) / 2
    scores = answering.score(found, rows, len(rows), ["squad_v2"])
    assert scores["exact"] == scores["NoAns_f1"] == 100 and scores["no_answer_threshold"] == threshold
    assert answering.score(found, rows, len(rows), ["squad_v2"], threshold=1.0)["NoAns_f1"] == 0


def test_predictions_are_spans_of_their_contexts(trained, tmp_path):
    output, _ = trained
    rows = questions(5)
    contexts = [rows[0]["context"] * 3, *(row["context"] for row in rows[1:4]), " "]
    found = predict(output, [row["question"] for row in rows], pairs=contexts)
    for each, context in zip(found, contexts, strict=True):
        assert sum(span["probability"] for span in each["n_best"]) + each["no_answer_probability"] == pytest.approx(1)
        assert all(context[span["start"] : span["end"]] == span["answer"] for span in each["n_best"])
        best = each["n_best"][0]["answer"] if each["n_best"] else ""
        assert each["answer"] in ("", best) and (each["start"] is None) == (each["answer"] == "")
    assert found[-1]["n_best"] == [] and found[-1]["no_answer_probability"] == 1
    with pytest.raises(ValueError, match="questions need a context"):
        predict(output, ["where?"])


def test_the_report(trained):
    output, _ = trained
    page = (output / "report.html").read_text()
    assert all(said in page for said in ("Worst questions", "windows without their answer", "where is?"))
    assert {"answers.png", "lengths.png"} <= {each.name for each in (output / "figures").iterdir()}


def test_adapters_learn_and_are_what_predict_loads(bert, folder, tmp_path):
    config = configured(bert, tmp_path / "out", train_file=folder / "flat.jsonl", use_peft=True)
    results = recipe.main(config)
    row = questions(1)[0]
    (found,) = predict(tmp_path / "out", [row["question"]], pairs=[row["context"]])
    assert found["answer"] in row["context"] and results["test_loss"] > 0
    parity = merge(tmp_path / "out", tmp_path / "merged", prompts=("where is?", "who is in new york?"))
    assert parity.max_difference < 1e-4 and parity.top1_agreement == 1
    (again,) = predict(tmp_path / "merged", [row["question"]], pairs=[row["context"]])
    assert again["answer"] == found["answer"]
    assert again["probability"] == pytest.approx(found["probability"], abs=1e-5)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hftrain"]["answering"]["doc_stride"] == 6
