"""Registers the custom models with transformers' Auto classes; `hftrain.models.load` loads any model."""

from typing import TYPE_CHECKING

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from hftrain.lazy import lazily

from .transformer.configuration import TransformerConfig
from .transformer.heads import (
    TransformerForCausalLM,
    TransformerForConditionalGeneration,
    TransformerForMaskedLM,
    TransformerForQuestionAnswering,
    TransformerForSequenceClassification,
    TransformerForTokenClassification,
)
from .transformer.images import (
    ImageTransformerConfig,
    TransformerForImageClassification,
    TransformerForMaskedImageModeling,
)
from .transformer.transformer import TransformerModel

if TYPE_CHECKING:
    from hftrain.models.dinov3 import DINOv3ViTForImageClassification
else:
    __getattr__ = lazily(__name__)  # it takes as long to import as all others; what loads classifiers of images does

# Saved folders also contain the code, so that trust_remote_code=True loads them without hftrain.
for config_class in (TransformerConfig, ImageTransformerConfig):
    AutoConfig.register(config_class.model_type, config_class)
    config_class.register_for_auto_class()  # type: ignore[no-untyped-call]
for auto_class, model_class in (
    (AutoModel, TransformerModel),
    (AutoModelForSeq2SeqLM, TransformerForConditionalGeneration),
    (AutoModelForMaskedLM, TransformerForMaskedLM),
    (AutoModelForCausalLM, TransformerForCausalLM),
    (AutoModelForSequenceClassification, TransformerForSequenceClassification),
    (AutoModelForTokenClassification, TransformerForTokenClassification),
    (AutoModelForQuestionAnswering, TransformerForQuestionAnswering),
    (AutoModelForImageClassification, TransformerForImageClassification),
    (AutoModelForMaskedImageModeling, TransformerForMaskedImageModeling),
):
    auto_class.register(model_class.config_class, model_class)
    model_class.register_for_auto_class(auto_class.__name__)  # type: ignore[no-untyped-call]

__all__ = [
    "DINOv3ViTForImageClassification",
    "ImageTransformerConfig",
    "TransformerConfig",
    "TransformerForCausalLM",
    "TransformerForConditionalGeneration",
    "TransformerForImageClassification",
    "TransformerForMaskedImageModeling",
    "TransformerForMaskedLM",
    "TransformerForQuestionAnswering",
    "TransformerForSequenceClassification",
    "TransformerForTokenClassification",
    "TransformerModel",
]
