"""The search over texts: all alignments of a text are summed, and a language model decides between texts that sound
alike."""

import gzip
import itertools
import math

import numpy as np
import pytest

from hftrain.predict import predict
from hftrain.tasks.speech_recognition.beams import NGrams, Search, read_arpa
from tests.tasks.speaking.data import write
from tests.tasks.speech_recognition.models import ctc_folder, whisper_folder

ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.3
-0.7\tab\t-0.2
-0.9\tBA\t-0.1
-0.5\t</s>

\\2-grams:
-0.1\t<s> ab
-0.4\tab ba
-0.2\tba </s>

\\end\\
"""
SIGNS = "_ab "  # the blank, letters, and the end of a word


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "words.arpa.gz"
    with gzip.open(path, "wt") as file:
        file.write(ARPA)
    return path


def text_of(path):
    return "".join(SIGNS[token] for token, _ in itertools.groupby(path) if token).strip()


def frames(count, seed):
    scores = np.random.default_rng(seed).normal(size=(count, len(SIGNS)))
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("words", "log10"),
    [
        (["<s>", "ab"], -0.1),
        (["ab", "ba"], -0.4),
        (["ab", "AB"], -0.2 - 0.7),  # backs off from "ab"
        (["<s>", "xy"], -0.3 - 1.0),  # unknown
        (["ab", "ba", "</s>"], -0.2),  # only the last two are read
        (["xy", "ba"], -0.9),  # nothing is lost by backing off from an unknown word without a weight
    ],
)
def test_back_off(arpa, words, log10):
    model = read_arpa(arpa)
    assert model.order == 2
    assert model.log_probability([word.lower() for word in words]) == pytest.approx(log10 * math.log(10))


@pytest.mark.unit
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_the_search_sums_all_alignments(arpa, seed, weight):
    """Beside every path through five frames."""
    scores, search = frames(5, seed), Search(1000, read_arpa(arpa), weight, bonus=0.4)
    sums: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(len(SIGNS)), repeat=5):
        tokens = tuple(token for token, _ in itertools.groupby(path) if token)
        score = float(scores[np.arange(5), path].sum())
        sums[tokens] = float(np.logaddexp(sums.get(tokens, -math.inf), score))

    def prior(tokens):
        words = "".join(SIGNS[token] for token in tokens).split()
        model, sequence = search.model, ["<s>", *words, "</s>"]
        return sum(weight * model.log_probability(sequence[: end + 1]) for end in range(1, len(sequence))) + 0.4 * len(
            words
        )

    best = max(sums, key=lambda tokens: sums[tokens] + prior(tokens))
    assert search.text(scores, 0, text_of) == "".join(SIGNS[token] for token in best).strip()


@pytest.mark.unit
def test_the_language_model_decides_between_what_sounds_alike(arpa):
    likely = {"a": np.log([0.02, 0.49, 0.47, 0.02]), "b": np.log([0.02, 0.47, 0.49, 0.02])}
    scores = np.array([likely["b"], np.log([0.97, 0.01, 0.01, 0.01]), likely["a"]])
    assert Search(20).text(scores, 0, text_of) == "ba"
    assert Search(20, read_arpa(arpa)).text(scores, 0, text_of) == "ab"
    assert Search(20, read_arpa(arpa), weight=0.0).text(scores, 0, text_of) == "ba"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("content", "message"),
    [("a text\n", "no n-grams"), ("\\1-grams:\n-1.0 a\nx b\n", r":3: not a line of 1-grams: 'x b'")],
)
def test_a_file_that_is_no_language_model_is_refused(content, message, tmp_path):
    path = tmp_path / "words.arpa"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_arpa(path)


@pytest.mark.unit
def test_a_model_without_unknown_words_scores_them_low():
    model = NGrams({("a",): (-0.5, 0.0)}, 1)
    assert model.log_probability(["b"]) < -20 < model.log_probability(["a"])


def test_predict_searches(arpa, tmp_path):
    """Short recordings in batches, those with times by segment."""
    write(tmp_path / "clips", 4)
    clips = sorted(map(str, (tmp_path / "clips").rglob("*.wav")))[:3]
    model = ctc_folder(tmp_path / "model")
    searched = predict(model, clips, num_beams=5, device="cpu")
    assert searched == predict(model, clips, num_beams=5, batch_size=1, device="cpu")
    by_words = predict(model, clips, language_model=arpa, language_model_weight=5.0, device="cpu")
    assert len(by_words) == 3 and by_words != predict(model, clips, device="cpu")
    timed = predict(model, clips, language_model=arpa, times=True, device="cpu")
    assert all(segment["start"] < segment["end"] for answer in timed for segment in answer["segments"])
    with pytest.raises(ValueError, match="a language model is for CTC"):
        predict(whisper_folder(tmp_path / "whisper"), clips, language_model=arpa, device="cpu")
