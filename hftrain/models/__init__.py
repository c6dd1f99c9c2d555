"""Registers the custom Transformer with transformers' Auto classes; `hftrain.models.load` loads any model."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .transformer.configuration import TransformerConfig
from .transformer.heads import (
    TransformerForCausalLM,
    TransformerForConditionalGeneration,
    TransformerForMaskedLM,
    TransformerForQuestionAnswering,
    TransformerForSequenceClassification,
    TransformerForTokenClassification,
)
from .transformer.transformer import TransformerModel

AutoConfig.register(TransformerConfig.model_type, TransformerConfig)
# Saved folders also contain the code, so that trust_remote_code=True loads them without hftrain.
TransformerConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
for auto_class, model_class in (
    (AutoModel, TransformerModel),
    (AutoModelForSeq2SeqLM, TransformerForConditionalGeneration),
    (AutoModelForMaskedLM, TransformerForMaskedLM),
    (AutoModelForCausalLM, TransformerForCausalLM),
    (AutoModelForSequenceClassification, TransformerForSequenceClassification),
    (AutoModelForTokenClassification, TransformerForTokenClassification),
    (AutoModelForQuestionAnswering, TransformerForQuestionAnswering),
):
    auto_class.register(TransformerConfig, model_class)
    model_class.register_for_auto_class(auto_class.__name__)  # type: ignore[no-untyped-call]

__all__ = [
    "TransformerConfig",
    "TransformerForCausalLM",
    "TransformerForConditionalGeneration",
    "TransformerForMaskedLM",
    "TransformerForQuestionAnswering",
    "TransformerForSequenceClassification",
    "TransformerForTokenClassification",
    "TransformerModel",
]
