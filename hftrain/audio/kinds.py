"""Which saved models hear: by the class of the model and its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def classifies_audio(config: PreTrainedConfig, what: str) -> bool:
    """`what`: the class of the model, from `saved.kind`."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES as KINDS

    audible = config.model_type in KINDS
    return "ForAudioClassification" in what or (audible and "ForSequenceClassification" in what)


def hears(config: PreTrainedConfig, what: str) -> bool:
    """Whether the model reads recordings. `what`: the class of the model, from `saved.kind`."""
    return classifies_audio(config, what) or transcribes(config, what)


def transcribes(config: PreTrainedConfig, what: str) -> bool:
    """`what`: the class of the model, from `saved.kind`; an adapter has that of its base."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES as KINDS

    kinds = KINDS.keys() - {"dia"}  # which speaks
    return what.endswith("ForCTC") or (config.model_type in kinds and "ForConditionalGeneration" in what)
