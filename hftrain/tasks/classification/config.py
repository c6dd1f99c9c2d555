"""Settings of classification, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from hftrain.config import Usual, at_least, share
from hftrain.labels.config import LabelConfig


@dataclass
class ClassificationConfig(LabelConfig):
    """Texts or pairs of texts, and the class, labels or number to predict for each."""

    HEAD: ClassVar[str] = "ForSequenceClassification"

    text_column: str = "text"
    """Column of the texts."""

    text_pair_column: str | None = None
    """Column of the second texts, to classify pairs."""

    max_seq_length: Annotated[int, at_least(2)] = Usual(256)
    """Maximum tokens of a text or of a pair, special tokens included; longer inputs are truncated, and counted."""

    vocab_size: Annotated[int, at_least(300)] = 4000
    """Maximum vocabulary size of the byte-pair encoding that a new model learns from the training text."""

    token_drop: Annotated[float, share] = 0.0
    """Augmentation: probability of dropping a token of a training text, drawn anew each time."""

    token_swap: Annotated[float, share] = 0.0
    """Augmentation: number of swaps of two tokens in a training text, as a share of its tokens."""

    span_noise: Annotated[float, share] = 0.0
    """Augmentation: share of the tokens of a training text that are replaced, in spans of 3 on average, by one mask
    token per span."""

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_config and self.model_name_or_path is None:
            from hftrain.models.new import shape_problems

            yield from shape_problems(self.model_config)
