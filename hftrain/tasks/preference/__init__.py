"""Learning from preferences: DPO, IPO, SimPO, ORPO on pairs of answers, KTO on answers labelled good or bad, and reward
models."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.preference.config import (
        GrpoConfig,
        OnlineConfig,
        PreferenceConfig,
        PreferenceRecipeConfig,
        RewardConfig,
    )
    from hftrain.tasks.preference.examples import IDS, collate_preferences, collator, tokenize_preferences
    from hftrain.tasks.preference.judging import judge_preferences, judge_rewards
    from hftrain.tasks.preference.losses import (
        bradley_terry,
        count_examples,
        dpo,
        ipo,
        kto,
        objective,
        orpo,
        rewards,
        simpo,
    )
    from hftrain.tasks.preference.model import load_policy, load_reward_model
    from hftrain.tasks.preference.report import describe, summarize_preferences, summarize_rewards
    from hftrain.tasks.preference.reward import evaluate_rewards, reward_loss, reward_usage
    from hftrain.tasks.preference.rows import load_preferences, prompt_of, to_preference
    from hftrain.tasks.preference.scoring import (
        ReferencePoint,
        add_references,
        evaluate_preferences,
        preference_loss,
        with_reference,
    )
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "IDS",
    "GrpoConfig",
    "OnlineConfig",
    "PreferenceConfig",
    "PreferenceRecipeConfig",
    "ReferencePoint",
    "RewardConfig",
    "add_references",
    "bradley_terry",
    "collate_preferences",
    "collator",
    "count_examples",
    "describe",
    "dpo",
    "evaluate_preferences",
    "evaluate_rewards",
    "ipo",
    "judge_preferences",
    "judge_rewards",
    "kto",
    "load_policy",
    "load_preferences",
    "load_reward_model",
    "objective",
    "orpo",
    "preference_loss",
    "prompt_of",
    "reward_loss",
    "reward_usage",
    "rewards",
    "simpo",
    "summarize_preferences",
    "summarize_rewards",
    "to_preference",
    "tokenize_preferences",
    "with_reference",
]
