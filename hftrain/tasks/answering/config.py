"""What a user may say of question answering."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from hftrain.config import Config, FineTuneConfig, at_least
from hftrain.metrics import check_names


@dataclass
class AnsweringConfig(Config):
    """Questions, each with a context in which the answer stands, or does not."""

    question_column: str = "question"
    """Column of the questions. (The JSON of SQuAD is known and needs no names.)"""

    context_column: str = "context"
    """Column of the texts that the answers stand in."""

    answers_column: str = "answers"
    """Column of the answers: {text: [...], answer_start: [...]}, in characters, or their texts alone; none of them:
    there is no answer."""

    answer_start_column: str = "answer_start"
    """Column of the characters from which they stand, where answers_column has texts alone; without it an answer has to
    stand in its context once."""

    group_column: str = "title"
    """Column of what keeps together where rows are split, the article; where there is none, the context does."""

    max_seq_length: Annotated[int, at_least(16)] = 384
    """Tokens of a window, question included. A longer context becomes several windows."""

    doc_stride: Annotated[int, at_least(0)] = 128
    """Tokens of the context that neighbouring windows share."""

    max_answer_length: Annotated[int, at_least(1)] = 30
    """Tokens of an answer, at most, where the model is to find it."""

    n_best_size: Annotated[int, at_least(1)] = 20
    """Spans of each window that are looked at."""

    metrics: list[str] = field(default_factory=list)
    """Metrics of validation and test, of hftrain or as evaluate.load knows them; empty: squad, or squad_v2 where some
    questions have no answer."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        try:
            check_names(self.metrics, "question_answering")
        except ValueError as error:
            yield ("metrics",), str(error)


@dataclass
class AnswerConfig(AnsweringConfig, FineTuneConfig):
    """Extractive question answering."""
