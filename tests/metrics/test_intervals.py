"""Intervals of scores against other implementations, and what guesses score."""

import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
from datasets import Dataset
from sacrebleu.metrics import BLEU

from hftrain.metrics.guesses import unigram_guess
from hftrain.metrics.intervals import bootstrap, mean, ratio, wilson

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("successes", "total"), [(0, 1), (0, 10), (10, 10), (178, 200), (1, 3), (50_000, 100_000)])
def test_wilson_is_that_of_scipy(successes, total):
    other = scipy.stats.binomtest(successes, total).proportion_ci(0.95, method="wilson")
    assert wilson(successes, total) == pytest.approx((other.low, other.high), abs=1e-12)


def test_wilson_has_a_width_where_every_example_is_right():
    low, high = wilson(10, 10)
    assert high == pytest.approx(1) and 0.7 < low < 0.75
    with pytest.raises(ValueError):
        wilson(0, 0)


def test_wilson_contains_the_share():
    for total in range(1, 400):
        assert wilson(0, total)[0] == 0 and wilson(total, total)[1] == 1, total


def test_the_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).exponential(size=300)
    other = scipy.stats.norm.interval(0.95, values.mean(), scipy.stats.sem(values))
    assert mean(values) == pytest.approx(other, rel=1e-12)
    assert mean([1.0]) is None


def test_a_mean_over_items_in_groups():
    """With one item in each group it is the mean; groups that agree inside make it wider."""
    values = np.random.default_rng(0).normal(3, 1, size=200)
    assert ratio(values, np.ones(200)) == pytest.approx(mean(values))
    low, high = ratio(values * 10, np.full(200, 10))
    assert high - low == pytest.approx(np.diff(mean(values))[0])
    assert ratio([1.0], [2]) is None


def test_the_bootstrap_is_that_of_scipy():
    values = np.random.default_rng(1).exponential(size=150)
    ours = bootstrap(lambda rows: {"median": float(np.median(values[rows]))}, len(values), resamples=4000, budget=60)
    other = scipy.stats.bootstrap(
        (values,), np.median, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    )
    assert ours["median"] == pytest.approx(tuple(other.confidence_interval), rel=0.03)


def test_the_bootstrap_is_the_same_each_time_and_another_for_another_seed():
    values = np.random.default_rng(1).normal(size=100)

    def once(seed):
        return bootstrap(lambda rows: {"mean": float(values[rows].mean())}, len(values), seed)

    assert once(3) == once(3) != once(4)


def test_the_bootstrap_is_bounded_and_says_so(caplog):
    assert len(bootstrap(lambda rows: {"x": float(rows.sum())}, 1_000_000, budget=0.0)) == 0
    assert "use 1 resamples of the test rows, not 100" in caplog.text


def test_no_interval_where_it_would_promise_what_it_cannot():
    assert bootstrap(lambda rows: {"f1": 0.0}, 30) == {}  # all agree
    assert bootstrap(lambda rows: {"auc": float(rows[0])} if rows[0] < 5 else {}, 30) == {}  # mostly not defined
    assert set(bootstrap(lambda rows: {"auc": float(rows[1])} if rows[0] < 25 else {}, 30)) == {"auc"}


@pytest.mark.slow
def test_bleu_of_a_resample_is_bleu_of_its_sentences():
    from hftrain.tasks import translation

    references = [f"the cat number {i} sat on the mat of {i % 7} colours" for i in range(60)]
    hypotheses = [text.replace("mat", "rug") if i % 3 else text for i, text in enumerate(references)]
    rows = {name: {"target": references} for name in ("train", "test")}
    labels = Dataset.from_dict({"labels": [[1, 2, -100], [2, 3]]})
    found = translation.judge(hypotheses, rows, {"train": labels, "validation": labels}, 5, "en")
    low, high = found["intervals"]["test_sacrebleu"]
    generator = np.random.Generator(np.random.PCG64(42))
    scores = []
    for _ in range(400):
        chosen = generator.integers(60, size=60)
        texts = [[texts[i] for i in chosen] for texts in (hypotheses, references)]
        scores.append(BLEU(tokenize="13a").corpus_score(texts[0], [texts[1]]).score)
    assert (low, high) == pytest.approx(np.quantile(scores, [0.025, 0.975]), rel=1e-9)
    assert found["intervals"]["test_exact_match"] == wilson(20, 60)
    assert found["baseline"]["test_exact_match"] == 1 / 60 and found["remarks"] == []


def test_the_unigram_guess():
    """Against the sum over tokens, written out."""
    training, held_out = [{"labels": [0, 0, 1, -100]}, {"labels": [0]}], [{"labels": np.array([0, 1, 2, -100])}]
    seen = Counter([0, 0, 1, 0])
    loss = -sum(math.log((seen[token] + 1) / (4 + 3)) for token in (0, 1, 2)) / 3
    assert unigram_guess(training, held_out, 3) == pytest.approx({"loss": loss, "perplexity": math.exp(loss)})
    assert unigram_guess(training, [{"labels": [-100]}], 3) == {}
