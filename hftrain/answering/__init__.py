"""Extractive question answering: where in a text the answer to a question stands, or that it does not.

rows.py what a user may say, and rows; windows.py questions with parts of their contexts; predictions.py loss, spans,
scores; report.py what the report shows.
"""

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
from hftrain.answering.rows import AnsweringConfig, load_questions
from hftrain.answering.windows import collate, collator, cut_contexts, load_tokenizer, tokenize

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
    "load_questions",
    "load_tokenizer",
    "loss",
    "probabilities",
    "score",
    "tokenize",
]
