"""Settings of tagging."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from hftrain.config import Config, FineTuneConfig, Usual, at_least
from hftrain.metrics.table import name_problems


@dataclass
class TaggingConfig(Config):
    """Words and their tags: named entities, parts of speech."""

    tokens_column: str = "tokens"
    """Column of the words, one list per sentence; or of texts whose entities are given as spans (text, if the column
    tokens is missing)."""

    tags_column: str | None = None
    """Column of the tags, one list per sentence, or of the spans: [start, end, type], or objects with these keys; null:
    the first of tags, ner_tags and labels (for texts also entities, spans and label) that exists."""

    sentence_column: str | None = None
    """Column of the sentence number in tables (csv, tsv) with one word per row; null: found by its name; without one,
    blank lines separate sentences."""

    word_column: int | None = None
    """Column of the words in CoNLL files, counted from 1, or from the end (-1); null: the first, in .conllu the
    second."""

    tag_column: int | None = None
    """Column of the tags in CoNLL files, counted likewise; null: the last, in .conllu the fourth (part of speech)."""

    label_names: list[str] = field(default_factory=list)
    """All tags in order, needed if the data contain tag numbers or if a tag is missing from the training rows; empty:
    the tags of the training rows."""

    label_scheme: Literal["auto", "IOB1", "IOB2", "BIOES", "any", "none"] = "auto"
    """Tagging scheme, checked word by word; auto: detected; any: not checked; none: the tags are not entities."""

    label_all_tokens: bool = False
    """Label all sub-words of a word instead of the first alone."""

    max_seq_length: Annotated[int, at_least(8)] = Usual(128)
    """Tokens of a window. Longer sentences are split into several; each word is predicted in the window with the most
    context around it."""

    doc_stride: Annotated[int, at_least(0)] = Usual(32)
    """Maximum overlap of neighbouring windows of a long sentence, in tokens."""

    metrics: list[str] = field(default_factory=list)
    """Metrics for validation and test: those of hftrain or any that evaluate.load finds; empty: seqeval (precision,
    recall and F1 of whole entities), or accuracy if the tags are not entities."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        yield from name_problems(self.metrics, "token_classification")


@dataclass
class TagConfig(TaggingConfig, FineTuneConfig):
    """A tag for each word."""
