"""Settings of translation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from hftrain.config import InsteadOf, RecipeConfig, Usual, at_least, share
from hftrain.config.defaults import Task


@dataclass
class TranslateConfig(RecipeConfig):
    """Translation from source_lang to target_lang."""

    task_family: ClassVar[Task] = "translation"

    dataset_name: str | None = "cldr"
    """Data set: the built-in cldr (dates and times), one on the Hugging Face Hub, or a folder written by
    save_to_disk."""

    source_lang: str = "en"
    """Language of the sources: a locale for cldr, the tokenizer's code for multilingual models (en_XX, eng_Latn)."""

    target_lang: str = "de"
    """Language of the targets, as source_lang."""

    source_column: str = "source"
    """Column of the sources."""

    target_column: str = "target"
    """Column of the targets."""

    source_prefix: str = ""
    """Text prepended to each source, as T5 expects it: "translate English to German: "."""

    vocab_size: Annotated[int, at_least(300)] = 2000
    """Maximum size of the joint byte-pair vocabulary that a new model learns from the training text."""

    max_source_length: Annotated[int, at_least(2)] = Usual(128)
    """Maximum tokens of a source; longer ones are truncated, and counted."""

    max_target_length: Annotated[int, at_least(2)] = Usual(128)
    """Maximum tokens of a target and of a generated translation; longer targets are truncated, and counted."""

    num_beams: Annotated[int, at_least(1)] = 4
    """Beams of the beam search for the test rows; saved as the model's default."""

    predict_with_generate: bool = True
    """Also translate the validation rows, at most 500 of them, greedily, at each evaluation: adds the metrics sacrebleu
    and chrf. On few rows the loss rises long before the translations stop getting better."""

    @property
    def scored_by(self) -> str:
        return "chrf" if self.predict_with_generate else "loss"

    global_batch_tokens: Annotated[int | None, at_least(1), InsteadOf("global_batch_size")] = None
    """Approximate number of tokens (sources and targets, without padding) in one optimizer step, over all devices;
    null: chosen."""

    micro_batch_tokens: Annotated[int | None, at_least(1), InsteadOf("micro_batch_size")] = 1024
    """Tokens in one forward pass of one device, with padding. It limits memory; about 1000 is fastest on a CPU."""

    adam_beta2: Annotated[float, share] = 0.98
    """Decay of AdamW's mean of squared gradients, per step; 0.98 as in Attention Is All You Need, section 5.3."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if (self.metric_for_best_model or "loss").removeprefix("eval_") != "loss" and not self.predict_with_generate:
            yield ("metric_for_best_model", "predict_with_generate"), "without the latter, only loss is evaluated"

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        if self.model_config and self.model_name_or_path is None:
            from hftrain.models.new import shape_problems

            yield from shape_problems(self.model_config)
