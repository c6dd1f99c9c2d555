"""The model that classifies recordings: pretrained or new, with a head for these classes."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, AutoModelForAudioClassification, PreTrainedConfig

from hftrain.audio.features import NEW_ENCODER, STEADY, Features, load_extractor, new_extractor
from hftrain.models import load
from hftrain.models.freezing import freeze
from hftrain.models.saved import remember
from hftrain.tasks.audio_classification.config import AudioClassificationConfig


def load_features(config: AudioClassificationConfig) -> Features:
    """How the model that `config` names hears recordings, or a new one. Raises: ValueError, it has no feature
    extractor."""
    if config.model_name_or_path is None:
        return Features(new_extractor())
    load.load_model_config(config)  # refuses code that comes with the model
    how = {"trust_remote_code": config.trust_remote_code}
    return Features(load_extractor(config.model_name_or_path, config.model_revision, **how))


def load_classifier(config: AudioClassificationConfig, names: Sequence[str]) -> Any:
    """The model that `config` names, or a new one, with a head for the classes `names` (none: for one number).

    Raises:
        ValueError: it cannot be loaded, or `freeze` names nothing.
    """
    config.choose_length(4.0)
    settings: dict[str, Any] = {
        "id2label": dict(enumerate(names)) or {0: "LABEL_0"},
        "label2id": {name: number for number, name in enumerate(names)} or {"LABEL_0": 0},
        "problem_type": config.problem_type,
        **STEADY,
    }
    model = load.load_model(config, AutoModelForAudioClassification, new=lambda: new_shape(config), settings=settings)
    if config.freeze:
        freeze(model, config.freeze)
    remember(model.config, longest_seconds=config.longest_seconds)
    return load.add_adapters(model, config, None)


def new_shape(config: AudioClassificationConfig) -> PreTrainedConfig:
    """The configuration of a new model. Raises: ValueError, a value of `model_config` that it refuses."""
    own = {**NEW_ENCODER, "classifier_proj_size": 64} if config.model == "wav2vec2-bert" else {}
    try:
        return AutoConfig.for_model(config.model, **own | config.model_config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"model_config: {error}") from error
