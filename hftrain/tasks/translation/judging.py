"""What a reader should know of a score: its interval, a baseline, remarks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.metrics import texts
from hftrain.metrics.guesses import unigram_guess
from hftrain.metrics.intervals import bootstrap, wilson
from hftrain.report.scores import MORE_TRAINING, no_better

if TYPE_CHECKING:
    from hftrain.data.rows import Rows
from hftrain.tasks.translation.scoring import bleu_tokenizer, score


def judge(
    hypotheses: Sequence[str],
    rows: "Mapping[str, Rows]",
    examples: Mapping[str, Any],
    vocabulary: int,
    target_lang: str | None = None,
) -> dict[str, Any]:
    """`baseline`, `intervals` and `remarks` of the test rows, for `publish`. The baseline predicts the target that most
    training rows have; its loss, on the validation rows, is the loss of the token frequencies."""
    from sacrebleu.metrics import BLEU, CHRF

    references = rows["test"]["target"]
    intervals: dict[str, tuple[float, float]] = {}
    for name, metric in (("sacrebleu", BLEU(tokenize=bleu_tokenizer(target_lang, references))), ("chrf", CHRF())):
        # sacrebleu's counts of each sentence; a score is computed from their sums.
        counts = np.array(metric._extract_corpus_statistics(hypotheses, [references]))

        def scored(
            chosen: np.ndarray, name: str = name, metric: Any = metric, counts: Any = counts
        ) -> dict[str, float]:
            return {name: metric._aggregate_and_compute([counts[chosen].sum(axis=0).tolist()]).score}

        intervals |= bootstrap(scored, len(references))
    exact = sum(one == other for one, other in zip(hypotheses, references, strict=True))
    intervals["exact_match"] = wilson(exact, len(references))
    common = Counter(rows["train"]["target"]).most_common(1)[0][0]
    guess = score([common] * len(references), references, target_lang)
    training, validation = examples["train"], examples["validation"]
    tokens = unigram_guess(training, validation, vocabulary)
    baseline = {f"test_{name}": guess[name] for name in ("sacrebleu", "chrf", "exact_match")}
    (text, times), (_, usual) = (Counter(lines).most_common(1)[0] for lines in (hypotheses, references))
    remarks = []
    if times > max(2 * usual, len(hypotheses) / 2):
        remarks = [f"{times:,} of {len(hypotheses):,} translations are the same, {text[:60]!r}; {MORE_TRAINING}"]
    evidence: dict[str, Any] = {
        "baseline": baseline | ({"eval_loss": tokens["loss"]} if tokens else {}),
        "intervals": {f"test_{name}": interval for name, interval in intervals.items()},
    }
    results = {"test_chrf": texts.chrf(hypotheses, references)["score"]}
    return evidence | {
        "remarks": [*remarks, *no_better("test_chrf", results, **evidence, guess=f"always {common[:60]!r}")]
    }
