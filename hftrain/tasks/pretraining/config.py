"""Settings of pretraining."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from hftrain.config import InsteadOf, RecipeConfig, Usual, above, at_least, share
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
    """Folder written by hftrain prepare, or texts: json, jsonl, csv, tsv, parquet, arrow, txt, also .gz, .zst; a
    pattern (data/*.jsonl), a folder; or several of these: wiki.jsonl books.txt. A weight (wiki.jsonl@2.0: its tokens
    are drawn twice) or a limit (books.txt#500: 500 documents, chosen by a hash) may follow the name."""

    validation_file: Annotated[list[str] | None, files] = None
    """Validation texts in the same formats, without weights; null: the validation part of train_file."""

    validation_split: Annotated[float, share] = 0.05
    """Share of the documents held out for validation if there is no validation_file and train_file is not a prepared
    folder."""

    test_split: Annotated[float, share] = 0.0
    """Not used: pretraining is scored on the validation text."""

    max_train_tokens: Annotated[int | None, at_least(1)] = None
    """Read at most about this many tokens of the training text, validation documents included; null: all of it, or as
    much of a data set on the Hub as max_steps needs."""

    text_column: str = "text"
    """Column of the text."""

    document: Literal["line", "paragraph", "file"] = "line"
    """Unit of a document in a text file; blank lines separate paragraphs."""

    source_weights: dict[str, Any] = field(default_factory=dict)
    """Share of the tokens from each source of a prepared folder: --source_weights.wiki 0.7; empty: in proportion to
    their size."""

    max_length: Annotated[int, at_least(2)] = Usual(256)
    """Tokens of an example; longer documents are split into several, and counted. No token is dropped."""

    vocab_size: Annotated[int, at_least(260)] = 8000
    """Maximum vocabulary size of the byte-pair encoding that a new model learns from the text; about 260: bytes."""

    chunked_loss: bool = True
    """Compute the logits of a few tokens at a time: the same loss in a fraction of the memory. Models that change their
    logits after the output head compute all at once, which is logged."""

    global_batch_tokens: Annotated[int | None, at_least(1), InsteadOf("global_batch_size")] = None
    """Approximate number of tokens in one optimizer step, over all devices, without padding; null: chosen."""

    micro_batch_tokens: Annotated[int | None, at_least(1), InsteadOf("micro_batch_size")] = 4096
    """Tokens in one forward pass of one device, with padding. It limits memory, like micro_batch_size."""

    weight_decay: Annotated[float, at_least(0)] = 0.1
    """Decoupled weight decay, applied to matrices but not to biases and norms."""

    adam_beta2: Annotated[float, share] = 0.95
    """Decay of AdamW's mean of squared gradients, per step; 0.95 as in GPT-3 (Brown et al. 2020, appendix B)."""

    min_lr_ratio: Annotated[float, share] = 0.1
    """Final learning rate as a share of the peak."""

    eval_on_start: bool = True
    """Evaluate before the first step, so that the report can say whether training changed the loss."""

    @property
    def scored_by(self) -> str:
        return "perplexity"

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.test_file or self.test_split:
            key = "test_file" if self.test_file else "test_split"
            yield (key,), "pretraining is scored on the validation text: set validation_file"
        if self.folds is not None:
            yield ("folds",), "needs a test set, and pretraining has none: it is scored on the validation text"
        if self.source_weights and any(read_source(name).weight != 1 for name in self.train_file or ()):
            yield ("source_weights", "train_file"), "both weigh the sources: set only one of them"
        if self.vocab_size != type(self).vocab_size and (self.tokenizer_name_or_path or self.model_name_or_path):
            yield ("vocab_size",), "applies only to a new tokenizer, but tokenizer_name_or_path or the model has one"

    @property
    def tested_on(self) -> str:
        return ", ".join(self.validation_file) if self.validation_file else self.trained_on


@dataclass
class DenoisingConfig(PretrainingConfig):
    """Noise and packing of denoising objectives."""

    objective: Literal["masked_tokens", "span_corruption"] = "masked_tokens"
    """masked_tokens: an encoder predicts masked tokens (BERT); span_corruption: an encoder-decoder generates corrupted
    spans (T5)."""

    mlm_probability: Annotated[float, above(0, under=1)] = 0.15
    """Share of the tokens that are masked; rounded to a whole number for each example."""

    whole_word_mask: bool = False
    """Mask whole words instead of single tokens; for masked_tokens only."""

    mean_noise_span_length: Annotated[float, at_least(1)] = 3.0
    """Mean length of a corrupted span, in tokens; for span_corruption only."""

    packing: Literal["concatenate", "none"] = "concatenate"
    """How documents are packed into examples: concatenate: as one text that is cut wherever an example is full
    (RoBERTa's FULL-SENTENCES); none: one document per example, padded. (best_fit needs attention that keeps documents
    apart.)"""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.whole_word_mask and self.objective != "masked_tokens":
            yield ("whole_word_mask", "objective"), "contradict each other: only masked_tokens can mask whole words"


@dataclass
class PretrainConfig(PretrainingConfig):
    """A causal language model, from scratch or further."""

    model: str = "llama"
    """Architecture of a new model: transformer (hftrain's own), or one of the transformers library: llama, gpt2, qwen3,
    ..."""

    packing: Literal["best_fit", "concatenate", "none"] = "best_fit"
    """How documents are packed into examples: best_fit: several whole documents per example, without attention between
    them; concatenate: as one text that is cut wherever an example is full; none: one document per example, padded."""

    sample_tokens: Annotated[int, at_least(0)] = 100
    """Tokens generated at the end from the beginnings of eight validation documents; 0: no samples."""

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_name_or_path is None:
            from hftrain.models import new

            yield from new.model_problems(self.model, self.model_config, "AutoModelForCausalLM")


@dataclass
class PretrainMlmConfig(DenoisingConfig):
    """A masked language model, or an encoder-decoder that fills in spans, from scratch or further."""

    model: str = "bert"
    """Architecture of a new model: transformer (hftrain's own), or one of the transformers library: bert, modernbert,
    ...; t5, ..."""

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_name_or_path is None:
            from hftrain.models import new

            masked = self.objective == "masked_tokens"
            yield from new.model_problems(
                self.model, self.model_config, "AutoModelForMaskedLM" if masked else "AutoModelForSeq2SeqLM"
            )
