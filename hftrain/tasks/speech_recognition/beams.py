"""The likeliest text of CTC's frames by beam search, with an n-gram language model of words if there is one.

Shapes: F frames, V tokens.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
UNSEEN = -10.0  # log10 probability of a word that the model lacks, where it has no UNKNOWN
LEAST = -7.0  # log probability of a token, beside that of the likeliest, from which on it is followed


@dataclass(frozen=True)
class NGrams:
    """A back-off model of words (Katz 1987). Case does not matter.

    Args:
        scores: words -> (log10 probability of the last after the others, log10 weight when backing off from them).
        order: the most words.
    """

    scores: dict[tuple[str, ...], tuple[float, float]]
    order: int

    def log_probability(self, words: Sequence[str]) -> float:
        """Natural logarithm of the probability of the last word after those before it."""
        known = tuple(word if (word,) in self.scores else UNKNOWN for word in words[-self.order :])
        lost = 0.0
        while len(known) > 1:
            if known in self.scores:
                break
            lost += self.scores.get(known[:-1], (0.0, 0.0))[1]
            known = known[1:]
        return (lost + self.scores.get(known, (UNSEEN, 0.0))[0]) * math.log(10)


def read_arpa(path: Path) -> NGrams:
    """An ARPA file, as KenLM and SRILM write it, also packed (.gz).

    Raises:
        ValueError: `path` is no such file; the message has the line.
    """
    scores: dict[tuple[str, ...], tuple[float, float]] = {}
    order = 0
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if line.startswith("\\") and line.rstrip().endswith("-grams:"):
                order = int(line[1:].partition("-")[0])
            elif order and words and not line.startswith("\\"):
                try:
                    back = float(words[order + 1]) if len(words) > order + 1 else 0.0
                    gram = tuple(word.lower() for word in words[1 : order + 1])
                    if len(gram) < order:
                        raise ValueError
                    scores[gram] = max(scores.get(gram, (-math.inf, 0.0)), (float(words[0]), back))
                except ValueError:
                    raise ValueError(f"{path}:{number}: not a line of {order}-grams: {line.strip()!r:.60}") from None
    if not scores:
        raise ValueError(f"{path}: no n-grams: give a language model in the ARPA format, as KenLM's lmplz writes it")
    return NGrams(scores, order)


@dataclass(frozen=True)
class Search:
    """How texts are searched.

    Args:
        beams: prefixes that are followed at a time.
        model: of words; None: sound alone decides.
        weight: of the model's log probability beside that of the sound.
        bonus: added for each word, since every word makes a text less likely.
    """

    beams: int
    model: NGrams | None = None
    weight: float = 0.5
    bonus: float = 1.5
    known: dict[tuple[str, ...], float] = field(default_factory=dict)

    def prior(self, words: tuple[str, ...]) -> float:
        """What the language model adds for these whole words."""
        if self.model is None or not words:
            return 0.0
        if words not in self.known:
            last = self.weight * self.model.log_probability((BEGIN, *words)) + self.bonus
            self.known[words] = self.prior(words[:-1]) + last
        return self.known[words]

    def closing(self, words: tuple[str, ...]) -> float:
        """The same for a text that ends behind them."""
        if self.model is None:
            return 0.0
        end = self.weight * self.model.log_probability((BEGIN, *words, END)) if (END,) in self.model.scores else 0.0
        return self.prior(words) + end

    def text(self, log_probabilities: np.ndarray, blank: int, text_of: Callable[[Sequence[int]], str]) -> str:
        """The text of (F, V) frames, by a search over prefixes that sums all alignments of each (Hannun et al. 2014,
        arXiv 1408.2873).

        Args:
            text_of: tokens of frames, with `blank` between two -> their text.
        """
        prefixes = Prefixes(blank, text_of)
        beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}  # ends in a blank, in its last token
        for frame in log_probabilities:
            following: dict[tuple[int, ...], list[float]] = {}
            tokens = np.flatnonzero(frame >= frame.max() + LEAST).tolist()
            for prefix, (silent, spoken) in beams.items():
                either = log_sum(silent, spoken)
                for token in tokens:
                    score = float(frame[token])
                    if token == blank:
                        grow(following, prefix, either + score, -math.inf)
                        continue
                    if prefix and token == prefix[-1]:
                        grow(following, prefix, -math.inf, spoken + score)
                        grow(following, (*prefix, token), -math.inf, silent + score)
                    else:
                        grow(following, (*prefix, token), -math.inf, either + score)
            best = sorted(following, key=lambda p: log_sum(*following[p]) + self.prior(prefixes.whole(p)), reverse=True)
            beams = {prefix: (following[prefix][0], following[prefix][1]) for prefix in best[: self.beams]}
        last = max(beams, key=lambda p: log_sum(*beams[p]) + self.closing(prefixes.words(p)))
        return prefixes.text(last)


def log_sum(one: float, other: float) -> float:
    """Logarithm of the sum of two probabilities, from theirs."""
    high, low = max(one, other), min(one, other)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def grow(beams: dict[tuple[int, ...], list[float]], prefix: tuple[int, ...], silent: float, spoken: float) -> None:
    """Adds the probability of more alignments to a prefix."""
    entry = beams.setdefault(prefix, [-math.inf, -math.inf])
    entry[0], entry[1] = log_sum(entry[0], silent), log_sum(entry[1], spoken)


class Prefixes:
    """The texts of sequences of tokens."""

    def __init__(self, blank: int, text_of: Callable[[Sequence[int]], str]):
        self.blank, self.text_of = blank, text_of
        self.texts: dict[tuple[int, ...], str] = {}

    def text(self, prefix: tuple[int, ...]) -> str:
        if prefix not in self.texts:
            self.texts[prefix] = self.text_of([part for token in prefix for part in (token, self.blank)])
        return self.texts[prefix]

    def words(self, prefix: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(self.text(prefix).lower().split())

    def whole(self, prefix: tuple[int, ...]) -> tuple[str, ...]:
        """Its words without the last, which may go on."""
        return self.words(prefix)[:-1]
