"""Noise on token ids: exact shares, nothing lost, nothing random without a seed."""

import numpy as np
import pytest

from hftrain.data.noise import Noised, drop_tokens, mask_tokens, span_corruption, swap_tokens

pytestmark = pytest.mark.unit

MASK, IDS = 4, np.arange(10, 1000)


@pytest.fixture(autouse=True)
def seeded():
    np.random.seed(0)


def test_masking_chooses_exactly_its_share_and_nothing_else():
    tokens, free = np.random.choice(IDS, 200), np.ones(200, dtype=bool)
    free[[0, 17, 199]] = False
    inputs, labels = mask_tokens(tokens, mask_token_id=MASK, random_ids=IDS, free=free)
    chosen = labels != -100
    assert chosen.sum() == round(0.15 * 197)
    assert not chosen[~free].any()
    np.testing.assert_array_equal(labels[chosen], tokens[chosen])
    np.testing.assert_array_equal(inputs[~chosen], tokens[~chosen])
    np.random.seed(0)
    np.random.choice(IDS, 200)
    np.testing.assert_array_equal(mask_tokens(tokens, mask_token_id=MASK, random_ids=IDS, free=free)[0], inputs)


def test_masked_random_and_kept_are_80_10_10_and_every_place_is_as_likely():
    tokens = np.full(100, 5)  # not among IDS: a random token is not it
    masked, random, kept, places = 0, 0, 0, np.zeros(100)
    for _ in range(2000):
        inputs, labels = mask_tokens(tokens, mask_token_id=MASK, random_ids=IDS)
        places += labels != -100
        chosen = inputs[labels != -100]
        masked, kept = masked + (chosen == MASK).sum(), kept + (chosen == 5).sum()
        random += np.isin(chosen, IDS).sum()
    assert masked + random + kept == 2000 * 15
    deviation = np.sqrt(30_000 * 0.8 * 0.2)
    assert abs(masked - 24_000) < 4 * deviation and abs(random - 3000) < 4 * np.sqrt(30_000 * 0.1 * 0.9)
    assert np.abs(places - 300).max() < 4.5 * np.sqrt(2000 * 0.15 * 0.85)


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_short_sequences_teach_something(length):
    _, labels = mask_tokens(np.arange(10, 10 + length), mask_token_id=MASK, random_ids=IDS)
    assert (labels != -100).sum() == max(1, round(0.15 * length))
    _, labels = mask_tokens(np.arange(length), mask_token_id=MASK, random_ids=IDS, free=np.zeros(length, dtype=bool))
    assert (labels == -100).all()


def test_words_are_masked_whole():
    words = np.repeat(np.arange(60), np.tile([1, 2, 3], 20))
    free = words != 7
    counts = []
    for _ in range(200):
        _, labels = mask_tokens(np.full(120, 5), mask_token_id=MASK, random_ids=IDS, free=free, words=words)
        chosen = labels != -100
        assert not chosen[~free].any()
        for word in np.unique(words[chosen]):
            assert chosen[words == word].all()
        counts.append(chosen.sum())
    assert set(counts) == {round(0.15 * free.sum())}  # there is always a word that fits
    _, labels = mask_tokens(np.full(6, 5), mask_token_id=MASK, random_ids=IDS, words=np.zeros(6, dtype=int))
    assert (labels != -100).all()  # the only word there is


@pytest.mark.parametrize(
    ("length", "density", "mean_span"), [(2, 0.15, 3), (9, 0.15, 3), (100, 0.15, 3), (512, 0.5, 8)]
)
def test_spans_and_text_make_the_whole_again(length, density, mean_span):
    tokens, sentinels = np.random.choice(IDS, length), list(range(2000, 2100))
    noise = min(max(1, round(density * length)), length - 1)
    spans = max(1, round(noise / mean_span))
    inputs, labels = span_corruption(tokens, sentinels=sentinels, eos_token_id=1, density=density, mean_span=mean_span)
    assert inputs[-1] == labels[-1] == 1
    assert len(inputs) == length - noise + spans + 1 and len(labels) == noise + spans + 1
    assert labels[0] == 2000
    hidden = {part[0]: part[1:] for part in np.split(labels[:-1], np.flatnonzero(labels >= 2000)[1:])}
    assert list(hidden) == list(range(2000, 2000 + spans)) and all(len(part) for part in hidden.values())
    whole = np.concatenate([hidden.get(token, [token]) for token in inputs[:-1]])
    np.testing.assert_array_equal(whole, tokens)


def test_spans_vary_and_are_limited_by_the_sentinels():
    texts = {tuple(span_corruption(np.arange(10, 80), sentinels=[900, 901], eos_token_id=1)[0]) for _ in range(50)}
    assert len(texts) > 20
    inputs, _ = span_corruption(np.arange(10, 110), sentinels=[900, 901], eos_token_id=1, density=0.5)
    assert (inputs >= 900).sum() == 2
    inputs, labels = span_corruption(np.array([7]), sentinels=[900], eos_token_id=1)
    assert inputs.tolist() == [7, 1] and labels.tolist() == [1]


def test_every_division_into_spans_is_as_likely():
    found: dict[tuple, int] = {}
    for _ in range(3000):
        inputs, _ = span_corruption(np.arange(10, 16), sentinels=[900, 901], eos_token_id=1, density=0.5, mean_span=1.5)
        found[tuple(inputs)] = found.get(tuple(inputs), 0) + 1
    assert len(found) == 12  # 3 kept tokens as (0+, 1+, 0+): 6 ways; 3 hidden in 2 parts: 2
    assert all(abs(count - 250) < 4.5 * np.sqrt(250) for count in found.values())


def test_drop_and_swap():
    tokens, free = np.arange(1000), np.arange(1000) % 10 != 0
    left = drop_tokens(tokens, 0.2, free)
    assert set(tokens[~free]) <= set(left) and (np.diff(left) > 0).all()
    assert abs(1000 - len(left) - 180) < 4 * np.sqrt(900 * 0.2 * 0.8)
    assert len(drop_tokens(np.array([3, 4]), 0.999999)) == 1
    swapped = swap_tokens(tokens, 0.1, free)
    assert sorted(swapped) == list(tokens) and (swapped[~free] == tokens[~free]).all()
    assert 100 < (swapped != tokens).sum() <= 180
    assert (tokens == np.arange(1000)).all(), "the argument is left alone"
    assert swap_tokens(np.array([5]), 1.0).tolist() == [5]


def test_noised_examples_are_the_same_every_time_and_leave_the_generator_alone():
    noised = Noised([np.arange(20) for _ in range(6)], lambda tokens: drop_tokens(tokens, 0.3), seed=3)
    before = np.random.get_state()[1].copy()
    first = [noised[i].tolist() for i in range(6)]
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(99)
    assert [row.tolist() for row in noised.__getitems__([5, 0])] == [first[5], first[0]]
    assert noised[-1].tolist() == first[5] and [row.tolist() for row in noised[2:4]] == first[2:4]
    assert len({tuple(row) for row in first}) == 6
    other = Noised(noised.items, noised.noise, seed=4)
    assert other[0].tolist() != first[0]
