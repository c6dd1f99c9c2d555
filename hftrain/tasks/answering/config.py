"""Settings of question answering."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from hftrain.config import Config, FineTuneConfig, Usual, at_least
from hftrain.metrics.table import name_problems


@dataclass
class AnsweringConfig(Config):
    """Questions, each with a context that contains the answer or does not."""

    question_column: str = "question"
    """Column of the questions. (SQuAD's JSON needs no column names.)"""

    context_column: str = "context"
    """Column of the texts that contain the answers."""

    answers_column: str = "answers"
    """Column of the answers: {text: [...], answer_start: [...]}, in characters, or the texts alone; an empty list means
    that the question has no answer."""

    answer_start_column: str = "answer_start"
    """Column with the position of the answer's first character, if answers_column has texts alone; without it an answer
    must occur exactly once in its context."""

    group_column: str = "title"
    """Rows with the same value in this column stay in the same split (the article); if the column is missing, the
    context is used."""

    max_seq_length: Annotated[int, at_least(16)] = Usual(384)
    """Tokens of a window, question included. Longer contexts are split into several windows."""

    doc_stride: Annotated[int, at_least(0)] = Usual(128)
    """Overlap of neighbouring windows, in tokens of the context."""

    max_answer_length: Annotated[int, at_least(1)] = 30
    """Maximum length of a predicted answer, in tokens."""

    n_best_size: Annotated[int, at_least(1)] = 20
    """Candidate spans per window."""

    metrics: list[str] = field(default_factory=list)
    """Metrics for validation and test: those of hftrain or any that evaluate.load finds; empty: squad, or squad_v2 if
    some questions have no answer."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        yield from name_problems(self.metrics, "question_answering")


@dataclass
class AnswerConfig(AnsweringConfig, FineTuneConfig):
    """Extractive question answering."""
