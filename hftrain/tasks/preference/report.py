"""What the reports of preference learning and of reward models show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hftrain.data.examples import Examples
from hftrain.report import Report
from hftrain.report.described import describe_split, share
from hftrain.tasks import chat
from hftrain.tasks.preference.config import PreferenceRecipeConfig, RewardConfig
from hftrain.tasks.preference.judging import judge_preferences, judge_rewards
from hftrain.tasks.preference.reward import reward_usage

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


def describe(rows: Mapping[str, Rows], examples: Mapping[str, Any]) -> dict[str, Any]:
    """The table of each split: its rows, how many were left out, leaked or truncated, its tokens."""

    def details(made: Examples) -> dict[str, Any]:
        tokens = made.lengths
        return {
            "examples": len(made),
            "answers cut": share(made.counts["truncated"], 2 * len(made)),
            "tokens, mean": float(tokens.mean()),
            "longest": int(tokens.max()),
        }

    return {
        name: describe_split(split, details(examples[name]), inputs="prompts", refused=examples[name].counts["refused"])
        for name, split in rows.items()
    }


def summarize_preferences(
    config: PreferenceRecipeConfig,
    rows: Mapping[str, Rows],
    examples: Mapping[str, Examples],
    scores: Mapping[str, float],
) -> Report:
    """What the report of preference learning shows: the scores of the test rows, and the data."""
    return Report(
        title=f"Preferences ({config.loss_type})",
        task="text-generation",
        metric="reward_accuracy",
        scores=scores,
        usage=chat.usage(config, rows["test"][0]),
        data=describe(rows, examples),
        **judge_preferences(scores, config, examples),
    )


def summarize_rewards(
    config: RewardConfig, rows: Mapping[str, Rows], examples: Mapping[str, Any], scores: Mapping[str, float]
) -> Report:
    """What the report of a reward model shows: the scores of the test rows, and the data."""
    return Report(
        title="Reward model",
        task="text-classification",
        metric="accuracy",
        scores=scores,
        usage=reward_usage(config, rows["test"][0]),
        data=describe(rows, examples),
        **judge_rewards(scores, len(examples["test"])),
    )
