"""What a user may say of tagging."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from hftrain.config import Config, FineTuneConfig, at_least
from hftrain.metrics import check_names


@dataclass
class TaggingConfig(Config):
    """Words with a tag each: names of people and places, parts of speech."""

    tokens_column: str = "tokens"
    """Column of the words, a list for each sentence; or of texts (text, where tokens are missing) whose entities are
    marked by their places."""

    tags_column: str | None = None
    """Column of their tags, likewise, or of the places: [start, end, type], or objects with these; null: tags, ner_tags
    or labels, of texts also entities, spans or label, whichever is there."""

    sentence_column: str | None = None
    """Column that numbers the sentences, in tables (csv, tsv) with a word a row; null: found by its name, or blank
    lines stand between sentences."""

    word_column: int | None = None
    """Column of the words in CoNLL files, from 1, or from the end: -1; null: the first, or of .conllu the second."""

    tag_column: int | None = None
    """Column of the tags in CoNLL files, likewise; null: the last, or of .conllu the fourth, the part of speech."""

    label_names: list[str] = field(default_factory=list)
    """All tags, in order, where the data have their numbers from 0 or the training rows lack some; empty: those of the
    training rows."""

    label_scheme: Literal["auto", "IOB1", "IOB2", "BIOES", "any", "none"] = "auto"
    """How tags spell entities, checked word by word; auto: found out; any: not checked; none: tags are no entities."""

    label_all_tokens: bool = False
    """Learn the tag of a word at all of its sub-words, not at the first alone."""

    max_seq_length: Annotated[int, at_least(8)] = 128
    """Tokens of a window. A longer sentence becomes several; each word belongs to the one that shows most around it."""

    doc_stride: Annotated[int, at_least(0)] = 32
    """Tokens that neighbouring windows of a long sentence share, at most."""

    metrics: list[str] = field(default_factory=list)
    """Metrics of validation and test, of hftrain or as evaluate.load knows them; empty: seqeval, that is precision,
    recall and f1 of whole entities, or accuracy where tags spell none."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        try:
            check_names(self.metrics, "token_classification")
        except ValueError as error:
            yield ("metrics",), str(error)


@dataclass
class TagConfig(TaggingConfig, FineTuneConfig):
    """A tag for each word."""
