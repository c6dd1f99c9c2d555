"""Scores of texts: BLEU and chrF by sacrebleu, and exact match."""

from collections.abc import Sequence
from typing import Any

from hftrain.metrics.checks import same_length, some

Texts = Sequence[str] | Sequence[Sequence[str]]


def bleu(predictions: Sequence[str], references: Texts, **options: Any) -> dict[str, Any]:
    """{"score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len", "signature"}, in percent.

    Args:
        references: a text for each prediction, or lists of equally many.
        options: options of `sacrebleu.metrics.BLEU`.

    Raises:
        ValueError: predictions are missing, or the number of references differs.
    """
    from sacrebleu.metrics import BLEU

    return _corpus_score(
        BLEU(**options), predictions, references, ("counts", "totals", "precisions", "bp", "sys_len", "ref_len")
    )


def chrf(predictions: Sequence[str], references: Texts, **options: Any) -> dict[str, Any]:
    """{"score", "char_order", "word_order", "beta", "signature"}; `options` are those of `sacrebleu.metrics.CHRF`, the
    rest is as in `bleu`."""
    from sacrebleu.metrics import CHRF

    return _corpus_score(CHRF(**options), predictions, references, ("char_order", "word_order", "beta"))


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """{"exact_match"}: the share of predictions that equal their reference, character for character."""
    same_length(predictions=predictions, references=references)
    some(len(predictions))
    equal = sum(prediction == reference for prediction, reference in zip(predictions, references, strict=True))
    return {"exact_match": equal / len(predictions)}


def _corpus_score(metric: Any, predictions: Sequence[str], references: Texts, parts: Sequence[str]) -> dict[str, Any]:
    same_length(predictions=predictions, references=references)
    some(len(predictions))
    several = [[texts] if isinstance(texts, str) else texts for texts in references]
    if len({len(texts) for texts in several}) != 1:
        raise ValueError("every prediction needs the same number of references")
    result = metric.corpus_score(predictions, [list(column) for column in zip(*several, strict=True)])
    scores = {"score": result.score, **{part: getattr(result, part) for part in parts}}
    return scores | {"signature": str(metric.get_signature())}
