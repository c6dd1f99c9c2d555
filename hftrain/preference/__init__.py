"""Learning from preferences: DPO, IPO, SimPO, ORPO on pairs of answers, KTO on answers that are good or bad."""

from hftrain.preference.losses import dpo, ipo, kto, objective, orpo, rewards, simpo
from hftrain.preference.settings import PreferenceConfig
from hftrain.preference.training import (
    ReferencePoint,
    collate_preferences,
    count_examples,
    evaluate_preferences,
    preference_loss,
    with_reference,
)

__all__ = [
    "PreferenceConfig",
    "ReferencePoint",
    "collate_preferences",
    "count_examples",
    "dpo",
    "evaluate_preferences",
    "ipo",
    "kto",
    "objective",
    "orpo",
    "preference_loss",
    "rewards",
    "simpo",
    "with_reference",
]
