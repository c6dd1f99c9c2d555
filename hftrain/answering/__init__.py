"""Extractive question answering: where in a text the answer to a question stands, or that it does not.

settings.py what a user may say; rows.py rows; windows.py questions with parts of their contexts; predictions.py loss,
spans, scores; judging.py how good the scores are; report.py what the report shows.
"""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.answering.judging import judge
    from hftrain.answering.predictions import (
        Found,
        Span,
        answer,
        best_answers,
        choose_threshold,
        find_spans,
        join,
        loss,
        probabilities,
        score,
    )
    from hftrain.answering.rows import load_questions
    from hftrain.answering.settings import AnsweringConfig
    from hftrain.answering.windows import collate, collator, cut_contexts, load_tokenizer, tokenize
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "AnsweringConfig",
    "Found",
    "Span",
    "answer",
    "best_answers",
    "choose_threshold",
    "collate",
    "collator",
    "cut_contexts",
    "find_spans",
    "join",
    "judge",
    "load_questions",
    "load_tokenizer",
    "loss",
    "probabilities",
    "score",
    "tokenize",
]
