"""Extractive question answering: the answer to a question as a span of a text, or that the text has none."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.answering.config import AnswerConfig, AnsweringConfig
    from hftrain.tasks.answering.examples import collate, collator, cut_contexts, load_tokenizer, tokenize
    from hftrain.tasks.answering.judging import judge
    from hftrain.tasks.answering.losses import loss
    from hftrain.tasks.answering.model import load_answerer, model_settings, save_threshold
    from hftrain.tasks.answering.report import summarize
    from hftrain.tasks.answering.rows import load_questions
    from hftrain.tasks.answering.scoring import (
        Found,
        Span,
        answer,
        best_answers,
        choose_metrics,
        choose_threshold,
        find_spans,
        is_answered,
        join,
        probabilities,
        score,
    )
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "AnswerConfig",
    "AnsweringConfig",
    "Found",
    "Span",
    "answer",
    "best_answers",
    "choose_metrics",
    "choose_threshold",
    "collate",
    "collator",
    "cut_contexts",
    "find_spans",
    "is_answered",
    "join",
    "judge",
    "load_answerer",
    "load_questions",
    "load_tokenizer",
    "loss",
    "model_settings",
    "probabilities",
    "save_threshold",
    "score",
    "summarize",
    "tokenize",
]
