"""The settings that the pretraining recipes share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from hftrain.config import InsteadOf, RecipeConfig, above, at_least, share
from hftrain.config.defaults import Task
from hftrain.config.schema import files
from hftrain.config.sources import read_source


@dataclass
class PretrainingConfig(RecipeConfig):
    """Pretraining on text: token files of `hftrain prepare`, or rows, which are tokenized first."""

    task_family: ClassVar[Task] = "pretraining"

    dataset_name: str | None = None
    """Data set on the Hub (name:split, name:config:split), which is streamed into token files, or a folder."""

    train_file: Annotated[list[str] | None, files, InsteadOf("dataset_name")] = None
    """Folder of hftrain prepare, or texts: json, jsonl, csv, tsv, parquet, arrow, txt, also .gz, .zst; a pattern
    (data/*.jsonl), a folder; or several of these: wiki.jsonl books.txt. A weight may follow, wiki.jsonl@2.0 (its tokens
    are drawn twice), and a limit, books.txt#500 (500 documents, chosen by a hash)."""

    validation_file: Annotated[list[str] | None, files] = None
    """The same to validate on, without weights; null: the validation part of train_file."""

    validation_split: Annotated[float, share] = 0.05
    """Share of the documents set aside for validation where validation_file names none and train_file is no folder."""

    test_split: Annotated[float, share] = 0.0
    """Not used: what is pretrained is scored on the validation text."""

    max_train_tokens: Annotated[int | None, at_least(1)] = None
    """Read no more of the training text than about so many tokens, validation documents included; null: all of it, but
    of a data set on the Hub only what max_steps will see."""

    text_column: str = "text"
    """Column of the text."""

    document: Literal["line", "paragraph", "file"] = "line"
    """What a document is in a text file; paragraphs have blank lines between."""

    source_weights: dict[str, Any] = field(default_factory=dict)
    """Shares of the tokens that the sources of a prepared folder get: --source_weights.wiki 0.7; none: as they are."""

    max_length: Annotated[int, at_least(2)] = 256
    """Tokens of an example; longer documents are cut into several, and counted. None is dropped."""

    vocab_size: Annotated[int, at_least(260)] = 8000
    """Tokens of the byte-pair encoding that a new model learns from the text, at most; 260 or so: bytes."""

    chunked_loss: bool = True
    """Compute the logits of a few tokens at a time: the same loss in a fraction of the memory. Models that change their
    logits after the output head use all of them at once, which is logged."""

    global_batch_tokens: Annotated[int | None, at_least(1), InsteadOf("global_batch_size")] = None
    """Tokens in one optimizer step, over all devices, about, without padding; null: chosen."""

    micro_batch_tokens: Annotated[int | None, at_least(1), InsteadOf("micro_batch_size")] = 4096
    """Tokens in one forward pass of one device, with padding. Only about memory, as micro_batch_size."""

    weight_decay: Annotated[float, at_least(0)] = 0.1
    """Decoupled weight decay of matrices; biases and norms have none."""

    adam_beta2: Annotated[float, share] = 0.95
    """Decay of AdamW's mean of squared gradients, per step; 0.95 as in GPT-3 (Brown et al. 2020, appendix B)."""

    min_lr_ratio: Annotated[float, share] = 0.1
    """Learning rate at the end, as a share of the peak."""

    @property
    def scored_by(self) -> str:
        return "perplexity"

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.test_file or self.test_split:
            key = "test_file" if self.test_file else "test_split"
            yield (key,), "pretraining is scored on the validation text: set validation_file"
        if self.folds is not None:
            yield ("folds",), "is of recipes with a test set: pretraining is scored on the validation text"
        if self.source_weights and any(read_source(name).weight != 1 for name in self.train_file or ()):
            yield ("source_weights", "train_file"), "both say how often the sources are drawn: give one of them"
        if self.vocab_size != type(self).vocab_size and (self.tokenizer_name_or_path or self.model_name_or_path):
            yield ("vocab_size",), "is of a tokenizer to be learnt, and there is one"

    @property
    def tested_on(self) -> str:
        return ", ".join(self.validation_file) if self.validation_file else self.trained_on


@dataclass
class DenoisingConfig(PretrainingConfig):
    """What is hidden, and how documents make up examples."""

    objective: Literal["masked_tokens", "span_corruption"] = "masked_tokens"
    """masked_tokens: an encoder names hidden tokens; span_corruption: an encoder-decoder writes hidden spans."""

    mlm_probability: Annotated[float, above(0), share] = 0.15
    """Share of the tokens that are hidden; rounded to a whole number for each example."""

    whole_word_mask: bool = False
    """Hide words whole, not single tokens of them; of masked_tokens only."""

    mean_noise_span_length: Annotated[float, at_least(1)] = 3.0
    """Tokens of a hidden span, on average; of span_corruption only."""

    packing: Literal["concatenate", "none"] = "concatenate"
    """How documents make up examples: concatenate: as one text, cut wherever an example is full (RoBERTa's
    FULL-SENTENCES); none: each for itself, padded. (best_fit needs attention that keeps documents apart.)"""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.whole_word_mask and self.objective != "masked_tokens":
            yield ("whole_word_mask", "objective"), "contradict each other: spans are tokens in a row"


@dataclass
class PretrainConfig(PretrainingConfig):
    """A causal language model, from scratch or further."""

    model: str = "llama"
    """Architecture of a new model: transformer (our own), or of transformers: llama, gpt2, qwen3, ..."""

    packing: Literal["best_fit", "concatenate", "none"] = "best_fit"
    """How documents make up examples: best_fit: whole, several to one, apart from each other; concatenate: as one text,
    cut wherever an example is full; none: each for itself, padded."""

    sample_tokens: Annotated[int, at_least(0)] = 100
    """Tokens written at the end after the beginnings of eight validation documents; 0: none."""

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_name_or_path is None:
            from hftrain.models import new

            yield from new.model_problems(self.model, self.model_config, "AutoModelForCausalLM")


@dataclass
class PretrainMlmConfig(DenoisingConfig):
    """A masked language model, or an encoder-decoder that fills in spans, from scratch or further."""

    model: str = "bert"
    """Architecture of a new model: transformer (our own), or of transformers: bert, modernbert, ...; t5, ..."""

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_name_or_path is None:
            from hftrain.models import new

            masked = self.objective == "masked_tokens"
            yield from new.model_problems(
                self.model, self.model_config, "AutoModelForMaskedLM" if masked else "AutoModelForSeq2SeqLM"
            )
