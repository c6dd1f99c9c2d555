"""Errors of transcripts, counted by jiwer after both texts went through the same normaliser."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from hftrain.metrics.checks import same_length, some

if TYPE_CHECKING:
    import jiwer


@cache
def normaliser(name: str) -> Callable[[str], str]:
    """none; basic and english as Whisper's authors do, in transformers' version (english without the list of British
    spellings)."""
    if name == "none":
        return str.strip
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen: Any = BasicTextNormalizer() if name == "basic" else EnglishTextNormalizer({})
    return lambda text: str(chosen(text)).strip()


def normalised(texts: Sequence[str], name: str) -> list[str]:
    return [normaliser(name)(text) for text in texts]


def error_rates(hypotheses: Sequence[str], references: Sequence[str], name: str = "none") -> dict[str, Any]:
    """{"wer", "cer"}: errors / words (characters) of the references; {"exact_match"}: the share of equal texts; and
    {"normalizer"}. A reference that is empty once normalised counts its hypothesis as insertions."""
    same_length(predictions=hypotheses, references=references)
    some(len(references))
    texts, truth = normalised(hypotheses, name), normalised(references, name)
    rates = {"wer": rate(align(texts, truth)), "cer": rate(align(texts, truth, characters=True))}
    exact = sum(one == other for one, other in zip(texts, truth, strict=True)) / len(truth)
    return {**rates, "exact_match": exact, "normalizer": name}


def rate(aligned: jiwer.WordOutput | jiwer.CharacterOutput) -> float:
    """Errors of an alignment / length of its references."""
    errors = aligned.substitutions + aligned.deletions + aligned.insertions
    return float(errors / max(1, aligned.hits + aligned.substitutions + aligned.deletions))


def align(hypotheses: Sequence[str], references: Sequence[str], *, characters: bool = False) -> Any:
    """jiwer's alignment of words or characters."""
    import jiwer

    process = jiwer.process_characters if characters else jiwer.process_words
    return process(list(references), list(hypotheses))
