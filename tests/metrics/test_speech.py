"""Word and character error rates: as counted by hand, and as jiwer and the normalisers of Whisper have them."""

import jiwer
import pytest

from hftrain.metrics.speech import error_rates, normalised

pytestmark = pytest.mark.unit


def test_rates_are_counted_over_all_texts():
    rates = error_rates(["a b d", "x"], ["a b c", "x y z"])
    assert rates["wer"] == pytest.approx(3 / 6) and rates["exact_match"] == 0
    assert rates["cer"] == pytest.approx(5 / 10) and rates["normalizer"] == "none"
    assert rates["wer"] == jiwer.wer(["a b c", "x y z"], ["a b d", "x"])


def test_a_reference_that_is_empty_counts_insertions():
    assert error_rates(["a b", "c"], ["", "c"])["wer"] == 2


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none", " It's  5! ", "It's  5!"),
        ("basic", " Hello, World! ", "hello world"),
        ("english", "Twenty-five, I'm sure.", "25 i am sure"),
    ],
)
def test_a_normaliser_makes_texts_alike(name, text, expected):
    assert normalised([text], name) == [expected]
