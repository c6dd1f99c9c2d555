"""What a run says of its scores: sentences where they show that nothing was learnt, and where they stand."""

import html
import json

import numpy as np
import pytest
from datasets import Dataset

from hftrain.data.examples import Examples
from hftrain.labels.judging import judge
from hftrain.labels.scoring import Scores
from hftrain.report.scores import format_score, never_predicted, not_learnt, verdict
from hftrain.tasks import answering, chat, classification, preference, tagging, translation
from hftrain.train.optim import too_few_steps
from recipes import classify as recipe

# ---- at the start


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"total": 18, "per_epoch": 6, "pretrained": True}, "18 steps teach a pretrained model little; 50 or more"),
        ({"total": 18, "per_epoch": 6, "pretrained": True}, "set num_train_epochs to 9 or more"),
        ({"total": 60, "per_epoch": 20, "pretrained": False}, "60 steps teach a new model little; 200 or more"),
        ({"total": 5, "per_epoch": 20, "pretrained": True, "max_steps": 5}, "set max_steps to 50 or more"),
        (
            {"total": 90, "per_epoch": 9, "pretrained": True, "warmup_steps": 89},
            "only the last step has the highest learning rate",
        ),
        ({"total": 90, "per_epoch": 9, "pretrained": True, "warmup_steps": 0.99}, "warmup_steps=0.99 of 90 steps"),
    ],
)
def test_steps_that_teach_little(settings, words):
    (sentence,) = too_few_steps(settings.pop("total"), settings.pop("per_epoch"), **settings)
    assert words in sentence


def test_steps_that_teach():
    assert too_few_steps(50, 5, pretrained=True, warmup_steps=0.1) == []
    assert too_few_steps(200, 5, pretrained=False, warmup_steps=198) == []


# ---- at the end


def test_a_loss_that_is_no_better_than_a_guess():
    assert not_learnt(0.683, 0.693).startswith("the model has not learnt: loss 0.683, a constant guess has 0.693; ")
    assert not_learnt(0.9, 0.693).startswith("the model has not learnt")
    assert not_learnt(0.6, 0.693) == "" == not_learnt(0.6, 0.693, (0.5, 0.69))
    wide = not_learnt(0.6, 0.693, (0.45, 0.75))
    assert wide.startswith(
        "it is not certain that the model has learnt: loss 0.6 (0.45-0.75), a constant guess has 0.693"
    )


def test_the_verdict_is_of_the_loss_unless_scores_beat_the_guess():
    baseline = {"test_loss": 0.693, "test_accuracy": 0.5}
    assert verdict({"test_loss": 0.69, "test_accuracy": 0.51}, baseline, {"test_accuracy": (0.44, 0.58)}, {})
    chance = {"test_loss": 0.7, "test_accuracy": 0.5, "test_f1": 0.5}  # always "no" has an F1 of 0
    assert verdict(chance, baseline | {"test_f1": 0.0}, {"test_accuracy": (0.44, 0.56), "test_f1": (0.4, 0.6)}, {})
    overfit = {"test_loss": 0.9, "test_accuracy": 0.9}
    assert verdict(overfit, baseline, {"test_accuracy": (0.86, 0.93)}, {}) == []
    assert "loss 3.4, a constant guess has 3.41" in verdict({"eval_loss": 3.4}, {"eval_loss": 3.41}, {}, {})[0]


def test_the_verdict_knows_the_model_before_training():
    start, baseline = {"step": 0, "eval_loss": 2.31, "eval_accuracy": 0.5}, {"test_loss": 7.0}
    (sentence,) = verdict({"test_loss": 2.3, "eval_loss": 2.30, "eval_accuracy": 0.5}, baseline, {}, start)
    assert sentence.startswith("the model has not learnt: loss 2.3, before training it was 2.31")
    assert verdict({"eval_loss": 2.0}, baseline, {}, start) == []
    assert verdict({"eval_loss": 2.4, "eval_accuracy": 0.8}, baseline, {}, start) == []  # right, and too sure


def test_scores_are_written_with_their_unit():
    assert format_score("accuracy", 0.89, (0.86, 0.915)) == "89.0 % (86.0-91.5)"
    assert format_score("f1_macro", 0.5) == "50.0 %"
    assert format_score("f1", 85.25, (80, 90), "question-answering") == "85.2 % (80.0-90.0)"
    assert format_score("loss", 0.5, (0.4, 0.6), "question-answering") == "0.5 (0.4-0.6)"
    assert format_score("sacrebleu", 36.123, (34.5, 37.8)) == "36.12 (34.5-37.8)"
    assert format_score("pearsonr", 0.1, (-0.2, 0.4)) == "0.1 (-0.2 to 0.4)"


def test_many_missing_classes_are_counted():
    (sentence,) = never_predicted("rows", {f"c{i}": i + 1 for i in range(20)}, 300)
    assert "'c19' (20)" in sentence and "and 12 more" in sentence and "'c0'" not in sentence


# ---- of each task


def judged(outputs, references, training, problem="single_label_classification", names=("no", "yes"), **settings):
    config = classification.ClassificationConfig(train_file="x.jsonl", problem_type=problem, **settings)
    losses = np.full(len(references), 0.69, dtype=np.float32)
    return judge(Scores(losses, np.asarray(outputs)), references, training, config, names, [0.5] * 2)


def test_every_row_of_one_class():
    references, training = np.array([0] * 37 + [1] * 63), np.array([0] * 40 + [1] * 60)
    found = judged(np.tile([0.4, 0.6], (100, 1)), references, training)
    one, two = found["remarks"]
    assert one.startswith("every prediction is 'yes'; set balance_classes")
    assert two.startswith("accuracy 63.0 % (53.2-71.8) is no better than always 'yes', which has 63.0 %")
    entropy = -(0.37 * np.log(0.4) + 0.63 * np.log(0.6))
    assert found["baseline"]["test_loss"] == pytest.approx(entropy)
    assert found["baseline"]["test_accuracy"] == 0.63
    balanced = judged(np.tile([0.4, 0.6], (100, 1)), references, training, balance_classes=True)
    assert "set balance_classes" not in "".join(balanced["remarks"])


def test_a_class_that_is_never_predicted_though_the_others_are_told_apart():
    references = np.repeat([0, 1, 2], [50, 45, 5])
    outputs = np.eye(3)[np.minimum(references, 1)]
    found = judged(outputs, references, references, names=("a", "b", "rare"))
    assert [each.partition(";")[0] for each in found["remarks"]] == [
        "never predicted: 'rare' (5) (of 100 rows in the test rows)"
    ]


def test_labels_and_numbers():
    references = np.array([[1, 0], [1, 1], [0, 0], [1, 1]] * 20)
    outputs = np.where(references[:, :1] == 1, [[0.9, 0.1]], [[0.1, 0.1]])
    found = judged(outputs, references, references, "multi_label_classification")
    assert "(of 200 labels in the test rows)" not in found["remarks"][0]
    assert "'yes' (40)" in found["remarks"][0]
    every = (2 * 60 / (80 + 60) + 2 * 40 / (80 + 40)) / 2  # F1 of always both labels
    assert found["baseline"]["test_f1_macro"] == pytest.approx(every)
    numbers = np.random.default_rng(0).normal(size=50).astype(np.float32)
    found = judged(np.full((50, 1), 0.1), numbers, numbers, "regression", ("score",))
    assert found["baseline"]["test_loss"] == pytest.approx(numbers.var(), rel=1e-5)
    assert found["remarks"][0].startswith("every prediction is about 0.1, but the labels spread by")


def test_tags_that_are_all_outside():
    sentences = [["O", "B-LOC", "I-LOC", "O"], ["B-PER", "O"]] * 10
    names = ["O", "B-LOC", "I-LOC", "B-PER"]
    number = {name: place for place, name in enumerate(names)}

    def tagged(rows):
        return [tagging.Tagged([number[tag] for tag in tags], [1.0] * len(tags), 2.0, len(tags)) for tags in rows]

    outside = [["O"] * len(tags) for tags in sentences]
    found = tagging.judge(tagged(outside), sentences, sentences, names, ["seqeval"])
    assert found["remarks"][0].startswith("no entity is predicted; the test rows have 20")
    assert found["remarks"][1].startswith("accuracy 50.0 %") and "always 'O'" in found["remarks"][1]
    assert found["baseline"]["test_f1"] == 0 and found["baseline"]["test_accuracy"] == 0.5
    places = [["O" if "PER" in tag else tag for tag in tags] for tags in sentences]
    found = tagging.judge(tagged(places), sentences, sentences, names, ["seqeval"])
    assert found["remarks"][0].startswith("never predicted: 'PER' (10) (of 20 entities in the test rows)")
    low, high = found["intervals"]["test_f1"]
    assert low < 2 * 10 / 30 < high
    plain = tagging.judge(tagged(sentences), sentences, sentences, names, ["accuracy"])
    assert plain["remarks"] == [] and "test_f1" not in plain["baseline"]
    words, tags = [["NOUN", "VERB"]] * 9, ["NOUN", "VERB"]
    guessed = [tagging.Tagged([0, 0], [1.0] * 2, 2.0, 2)] * 9
    found = tagging.judge(guessed, words, words, tags, ["accuracy"])
    assert found["remarks"][0].startswith("every word is tagged 'NOUN'")
    wrong = [["B-PER" if "LOC" in tag else "O" for tag in tags] for tags in sentences]
    found = tagging.judge(tagged(wrong), sentences, sentences, names, ["seqeval"])
    assert found["remarks"][0].startswith("none of the 20 predicted entities is correct")


def test_answers_that_are_no_better_than_the_first_words():
    rows = {"context": ["Paris is a city"] * 30, "answers": [["Paris"]] * 30, "question": ["what?"] * 30}
    data = Dataset.from_dict(rows)
    columns = {"labels": [[1, 1]] * 30, "null": [0] * 30, "offsets": [[0, 5, 6, 8, 9, 10, 11, 15]] * 30}
    windows = Examples.of(Dataset.from_dict(columns))
    found = [answering.Found([answering.Span(0, 5, 0.0)], -9.0, 3.0)] * 30
    splits = {"train": data, "test": data}
    judged = answering.judge(splits, {"train": windows, "test": windows}, found, ["squad"], 1.0)
    assert judged["baseline"]["test_f1"] == 100
    assert "always the first 1 words of the text has 100.0 % too" in judged["remarks"][0]
    assert judged["baseline"]["test_loss"] == pytest.approx(np.log(4) - np.log1p(-0.5 / 30))
    open_ = answering.judge(
        splits, {"train": windows, "test": windows}, [found[0]._replace(null=9.0)] * 30, ["squad_v2"], 0.5
    )
    assert open_["remarks"][0].startswith("every question is left open")


def test_translations_that_are_all_the_same():
    targets = [f"sentence {i}" for i in range(20)]
    rows = {name: {"target": targets} for name in ("train", "test")}
    labels = Dataset.from_dict({"labels": [[1, 2]] * 4})
    found = translation.judge(["the"] * 20, rows, {"train": labels, "validation": labels}, 5, "en")
    assert found["remarks"][0].startswith("20 of 20 translations are the same, 'the'")
    assert found["baseline"]["eval_loss"] == pytest.approx(np.log((8 + 5) / 5))
    assert "is no better than always 'sentence 0', which has" in found["remarks"][1]
    right = translation.judge(targets, rows, {"train": labels, "validation": labels}, 5, "en")
    assert right["remarks"] == []


def test_preferences_that_are_drawn_by_lot():
    config = preference.PreferenceConfig()
    found = preference.judge_preferences({"reward_accuracy": 0.5, "loss": 0.69}, config, {"test": [0] * 100})
    assert found["baseline"] == pytest.approx({"test_reward_accuracy": 0.5, "test_loss": np.log(2)})
    assert "reward_accuracy 50.0 % (40.4-59.6) is no better than a random choice between" in found["remarks"][0]
    few = preference.judge_rewards({"accuracy": 0.8}, 10)["remarks"][0]
    assert "80.0 % (49.0-94.3) is not certainly better" in few and few.endswith("use more test rows")
    found = preference.judge_rewards({"accuracy": 0.9}, 100)
    assert found["remarks"] == [] and found["baseline"]["test_loss"] == pytest.approx(np.log(2))
    good = Examples.of(Dataset.from_dict({"desirable": [True] * 80 + [False] * 20}))
    kto = preference.PreferenceConfig(loss_type="kto")
    found = preference.judge_preferences({"reward_accuracy": 0.8}, kto, {"train": good, "test": good})
    assert found["baseline"] == pytest.approx({"test_reward_accuracy": 0.8, "test_loss": 0.5})
    assert "calling every answer good, which has 80.0 %" in found["remarks"][0]


def test_chats_have_the_loss_of_token_frequencies():
    labels = Dataset.from_dict({"labels": [[-100, 1, 1]] * 3})
    found = chat.judge({"train": labels, "test": labels}, 4, (1.0, 2.0))
    assert found["baseline"]["test_loss"] == pytest.approx(-np.log(7 / 10))
    assert found["intervals"] == {"test_loss": (1.0, 2.0), "test_perplexity": pytest.approx((np.e, np.e**2))}
    assert chat.judge({"train": labels, "test": labels}, 4, None)["intervals"] == {}


# ---- where it stands


def run(folder, **settings):
    """A new small model on rows that a few steps can learn."""
    words = {"good": "fine great nice", "bad": "poor awful sad"}
    rows = [{"text": f"{words[label]} {i}", "label": label} for i in range(60) for label in words]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = classification.ClassificationConfig(
        train_file=str(folder / "rows.jsonl"), output_dir=str(folder / "out"), vocab_size=300, test_split=0.3,
        model_config=shape, eval_steps=0, save_steps=0, **settings,
    )  # fmt: skip
    recipe.main(config)
    read = (folder / "out" / "README.md").read_text(), html.unescape((folder / "out" / "report.html").read_text())
    return json.loads((folder / "out" / "all_results.json").read_text()), *read


def test_a_run_that_learns_nothing_says_so_everywhere(tmp_path, capsys):
    results, card, page = run(tmp_path, max_steps=2, learning_rate=1e-9)
    printed = capsys.readouterr().out
    assert "2 steps teach a new model little; 200 or more are usual: set max_steps to 200 or more" in printed
    low, high = results["intervals"]["test_accuracy"]
    assert low < results["test_accuracy"] < high
    guess = 100 * results["baseline"]["test_accuracy"]
    shown = f"{100 * results['test_accuracy']:.1f} % ({100 * low:.1f}-{100 * high:.1f})"
    assert f"test_accuracy: {shown}, a constant guess has {guess:.1f} %" in printed
    assert shown in card.replace("\\", "") and f"{guess:.1f} %" in card
    assert shown.split(" (")[0] in page and f"constant guess: {guess:.1f}\N{NO-BREAK SPACE}%" in page
    first = next(remark for remark in results["remarks"] if "learnt: loss" in remark)  # so few rows may not show it
    plain = card.replace("\\", "")
    for remark in results["remarks"]:
        assert f"note: {remark}" in printed and remark in plain and remark in page
    assert "a constant guess has 0.69" in first
    for text in (printed, plain, page):
        assert "learning_rate" in text and "usual for understanding, new models" in text, "what was chosen, and why"


def test_a_run_that_learns_is_told_nothing(tmp_path, capsys):
    results, _, page = run(tmp_path, max_steps=60, learning_rate=0.02)
    assert results["test_accuracy"] == 1 and results["intervals"]["test_accuracy"][0] > 0.8
    assert "remarks" not in results and "note: " not in capsys.readouterr().out and 'class="remarks"' not in page
    assert "training loss, last" in page


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_balanced_classes_are_compared_with_a_guess_that_is_balanced(problem):
    """Such a model finds the rare class at the cost of accuracy and loss: it has learnt."""
    truth = np.array([0] * 190 + [1] * 10)
    training = np.array([0] * 950 + [1] * 50)
    found = np.where(np.arange(200) % 10 == 0, 1 - truth, truth)  # one in ten is wrong
    likely = np.where(found == 1, 0.75, 0.25)
    losses = -np.log(np.where(truth == 1, likely, 1 - likely))
    outputs = np.stack([1 - likely, likely], axis=1)
    if problem == "multi_label_classification":
        outputs, truth, training = likely[:, None], truth[:, None], training[:, None]
    names = ["usual", "rare"][-outputs.shape[1] :]
    told = []
    for balanced in (True, False):
        config = classification.ClassificationConfig(train_file="a", problem_type=problem, balance_classes=balanced)
        judged = judge(Scores(losses, outputs), truth, training, config, names)
        results = {"test_loss": float(losses.mean()), "test_accuracy": 0.9}
        told.append(verdict(results, judged["baseline"], judged["intervals"], {}))
        if balanced:
            assert judged["baseline"]["test_loss"] == pytest.approx(np.log(2), abs=1e-3) and judged["remarks"] == []
    assert told[0] == [] and told[1], "compared with the frequencies of the rows, it has not learnt"
    same = Scores(np.full(200, np.log(2)), np.full(outputs.shape, 0.5))
    config = classification.ClassificationConfig(train_file="a", problem_type=problem, balance_classes=True)
    judged = judge(same, truth, training, config, names)
    assert verdict({"test_loss": np.log(2)}, judged["baseline"], judged["intervals"], {})


def test_a_class_without_test_rows_is_named():
    truth = np.ones(40, int)
    outputs = np.array([[0.1, 0.9]] * 40)
    config = classification.ClassificationConfig(train_file="a", metrics=["accuracy"])
    judged = judge(Scores(np.full(40, 0.1), outputs), truth, np.array([0] * 9 + [1] * 11), config, ["neg", "pos"])
    missing, nothing = judged["remarks"]
    assert missing.startswith("no test row is 'neg' (9 training rows): the scores do not show")
    assert nothing == "accuracy shows nothing on these test rows: always 'pos' has 100.0 % too"
