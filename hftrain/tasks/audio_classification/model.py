"""The model that classifies recordings: pretrained or new, with a head for these classes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModelForAudioClassification, PreTrainedConfig

from hftrain.audio.features import NEW_ENCODER, STEADY, Features, load_extractor, new_extractor
from hftrain.audio.windows import hear_less, within_window
from hftrain.models import load
from hftrain.models.freezing import freeze
from hftrain.models.new import naming_model_config
from hftrain.models.saved import class_entries, remember
from hftrain.tasks.audio_classification.config import AudioClassificationConfig

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

LONGEST = 30.0  # seconds


def load_features(config: AudioClassificationConfig, rows: "Mapping[str, Rows]") -> Features:
    """How the model that `config` names hears recordings, or a new one; chooses `longest_seconds`. Raises: ValueError,
    it has no feature extractor, or hears less."""
    if config.model_name_or_path is None:
        config.choose("longest_seconds", LONGEST, "usual")
        return Features(new_extractor())
    load.load_model_config(config)  # refuses code that comes with the model
    how = {"trust_remote_code": config.trust_remote_code}
    features = Features(load_extractor(config.model_name_or_path, config.model_revision, **how))
    features = within_window(features, rows, config, "longest_seconds")
    config.choose("longest_seconds", LONGEST, "usual")
    return features


def load_classifier(config: AudioClassificationConfig, names: Sequence[str], window: int | None) -> Any:
    """The model that `config` names, or a new one, with a head for the classes `names` (none: for one number); Whisper
    for its `window`, in seconds.

    Raises:
        ValueError: it cannot be loaded, is to be cut in pieces (ZeRO-3), or `freeze` names nothing.
    """
    config.choose_length(4.0)
    settings: dict[str, Any] = {
        **class_entries(names),
        "problem_type": config.problem_type,
        **STEADY,
    }
    model = load.load_model(config, AutoModelForAudioClassification, new=lambda: new_shape(config), settings=settings)
    if window is not None:
        hear_less(model, window)
    if config.freeze:
        freeze(model, config.freeze)
    remember(model.config, longest_seconds=config.longest_seconds)
    return load.add_adapters(model, config, None)


def new_shape(config: AudioClassificationConfig) -> PreTrainedConfig:
    """The configuration of a new model. Raises: ValueError, a value of `model_config` that it refuses."""
    own = {**NEW_ENCODER, "classifier_proj_size": 64}
    with naming_model_config():
        return AutoConfig.for_model(config.model, **own | config.model_config)
