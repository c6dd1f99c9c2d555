"""Metrics of answers equal the rules of the official SQuAD scripts."""

import re
import string
from collections import Counter

import numpy as np
import pytest

from hftrain.metrics import load_metric
from tests.metrics.test_metrics_oracles import close, in_batches

pytestmark = pytest.mark.unit


# --- answers


def official_normalize(text):
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def official_f1(prediction, truth, version):
    prediction, truth = official_normalize(prediction).split(), official_normalize(truth).split()
    if version == 2 and not (prediction and truth):
        return int(prediction == truth)
    same = sum((Counter(prediction) & Counter(truth)).values())
    if same == 0:
        return 0
    precision, recall = same / len(prediction), same / len(truth)
    return 2 * precision * recall / (precision + recall)


def official_squad(predictions, references, version):
    exact, f1 = [], []
    for prediction, truths in zip(predictions, references, strict=True):
        if version == 2:
            truths = [truth for truth in truths if official_normalize(truth)] or [""]
        exact.append(max(int(official_normalize(prediction) == official_normalize(truth)) for truth in truths))
        f1.append(max(official_f1(prediction, truth, version) for truth in truths))
    return exact, f1


def official_squad_v2(predictions, references, no_answer, threshold=1.0):
    raw = dict(zip(("exact", "f1"), official_squad(predictions, references, 2), strict=True))
    has_answer = [bool(truths) for truths in references]
    results = {"total": len(references)}
    for name, scores in raw.items():
        kept = [
            float(not has) if p > threshold else score
            for score, has, p in zip(scores, has_answer, no_answer, strict=True)
        ]
        results[name] = 100 * sum(kept) / len(kept)
        for prefix, wanted in (("HasAns", True), ("NoAns", False)):
            if part := [score for score, has in zip(kept, has_answer, strict=True) if has == wanted]:
                results |= {f"{prefix}_{name}": 100 * sum(part) / len(part), f"{prefix}_total": len(part)}
        current = best = has_answer.count(False)
        at = 0.0
        for i in sorted(range(len(kept)), key=lambda i: no_answer[i]):
            current += scores[i] if has_answer[i] else -1 if predictions[i] else 0
            if current > best:
                best, at = current, no_answer[i]
        results |= {f"best_{name}": 100 * best / len(kept), f"best_{name}_thresh": at}
    return results


def random_answers(seed, count=200, *, unanswerable):
    draw = np.random.default_rng(seed)
    words = ["the", "a", "an", "Paris", "paris", "New", "York.", "1,999", "of", "(the)", "«été»", "-", "theatre"]

    def text(least):
        return " ".join(draw.choice(words, draw.integers(least, 5)))

    references = [[text(1) for _ in range(draw.integers(0 if unanswerable else 1, 4))] for _ in range(count)]
    predictions = [text(0) if draw.random() < 0.6 or not truths else truths[-1] + " the" for truths in references]
    return predictions, references, draw.random(count).round(1 if seed % 2 else 9).tolist()


def squad_format(predictions, references, no_answer=None):
    ids = [f"q{number}" for number in range(len(predictions))]
    given = [{"id": id, "prediction_text": text} for id, text in zip(ids, predictions, strict=True)]
    if no_answer:
        given = [each | {"no_answer_probability": p} for each, p in zip(given, no_answer, strict=True)]
    answers = [
        {"id": id, "answers": {"text": texts, "answer_start": [0] * len(texts)}}
        for id, texts in zip(ids, references, strict=True)
    ]
    return {"predictions": given, "references": answers}


@pytest.mark.parametrize("seed", [20, 21])
def test_squad(seed):
    predictions, references, _ = random_answers(seed, unanswerable=False)
    exact, f1 = official_squad(predictions, references, 1)
    oracle = close({"exact_match": 100 * np.mean(exact), "f1": 100 * np.mean(f1)})
    assert 5 < np.mean(exact) * 100 < 95 and any(0 < each < 1 for each in f1)
    assert in_batches(["squad"], "question_answering", predictions, references) == oracle
    given = squad_format(predictions, references)
    given["predictions"].reverse()  # they are told by their ids
    assert load_metric("squad").compute(**given) == oracle


@pytest.mark.parametrize("threshold", [1.0, 0.5])
@pytest.mark.parametrize("seed", [22, 23], ids=["distinct", "ties"])
def test_squad_v2(seed, threshold):
    predictions, references, no_answer = random_answers(seed, unanswerable=True)
    given = squad_format(predictions, references, no_answer)
    found = load_metric("squad_v2").compute(**given, no_answer_threshold=threshold)
    assert found == close(official_squad_v2(predictions, references, no_answer, threshold))
    assert 0 < found["best_f1_thresh"] < 1 and found["NoAns_total"] > 10


def test_squad_v2_in_batches():
    predictions, references, no_answer = random_answers(22, unanswerable=True)
    oracle = close(official_squad_v2(predictions, references, no_answer))
    assert in_batches(["squad_v2"], "question_answering", predictions, references, np.array(no_answer)) == oracle
    answered = [number for number, truths in enumerate(references) if truths]
    predictions, references = [predictions[i] for i in answered], [references[i] for i in answered]
    oracle = close(official_squad_v2(predictions, references, [0.0] * len(references)))
    assert in_batches(["squad_v2"], "question_answering", predictions, references) == oracle
