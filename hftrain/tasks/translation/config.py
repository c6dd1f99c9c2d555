"""What can be set of translation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from hftrain.config import InsteadOf, RecipeConfig, at_least, share
from hftrain.config.defaults import Task


@dataclass
class TranslateConfig(RecipeConfig):
    """Translation from source_lang to target_lang."""

    task_family: ClassVar[Task] = "translation"

    dataset_name: str | None = "cldr"
    """The built-in cldr (dates and times), data set on the Hugging Face Hub, or folder written by save_to_disk."""

    source_lang: str = "en"
    """Language of the sources: a locale for cldr, the tokenizer's code for multilingual models (en_XX, eng_Latn)."""

    target_lang: str = "de"
    """Language of the targets, likewise."""

    source_column: str = "source"
    """Column of the sources."""

    target_column: str = "target"
    """Column of the targets."""

    source_prefix: str = ""
    """Put before each source, as T5 expects it: "translate English to German: "."""

    vocab_size: Annotated[int, at_least(300)] = 2000
    """Tokens of the joint byte-pair encoding that a new model learns from the training text, at most."""

    max_source_length: Annotated[int, at_least(2)] = 128
    """Tokens of a source; longer ones are truncated, and counted."""

    max_target_length: Annotated[int, at_least(2)] = 128
    """Tokens of a target; longer ones are truncated, and counted. Also the longest translation."""

    num_beams: Annotated[int, at_least(1)] = 4
    """Beams of the search that translates the test rows; also saved as the model's default."""

    predict_with_generate: bool = False
    """Also translate the validation rows, greedily, at each evaluation: adds the metrics sacrebleu and chrf."""

    @property
    def scored_by(self) -> str:
        return "chrf" if self.predict_with_generate else "loss"

    global_batch_tokens: Annotated[int | None, at_least(1), InsteadOf("global_batch_size")] = None
    """Tokens in one optimizer step, over all devices, about: without padding, of sources and targets; null: chosen."""

    micro_batch_tokens: Annotated[int | None, at_least(1), InsteadOf("micro_batch_size")] = 1024
    """Tokens in one forward pass of one device, with padding. Only about memory; about 1000 is fastest on a CPU."""

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
