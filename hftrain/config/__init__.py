"""Configuration: dataclasses with recommended defaults, and ``parse``, which reads settings strictly."""

from hftrain.config.data import DataConfig
from hftrain.config.fields import (
    FineTuneConfig,
    LoraConfig,
    ModelConfig,
    RecipeConfig,
    TrainConfig,
)
from hftrain.config.parse import parse
from hftrain.config.schema import (
    Config,
    ConfigError,
    InsteadOf,
    Must,
    Usual,
    above,
    at_least,
    between,
    changed,
    count_or_share,
    one_or_more,
    share,
)
from hftrain.config.yaml12 import to_yaml

__all__ = [
    "Config",
    "ConfigError",
    "DataConfig",
    "FineTuneConfig",
    "InsteadOf",
    "LoraConfig",
    "ModelConfig",
    "Must",
    "RecipeConfig",
    "TrainConfig",
    "Usual",
    "above",
    "at_least",
    "between",
    "changed",
    "count_or_share",
    "one_or_more",
    "parse",
    "share",
    "to_yaml",
]
