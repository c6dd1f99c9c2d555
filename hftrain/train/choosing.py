"""Chooses open settings for the examples and the model of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hftrain.config import TrainConfig, defaults, printing
from hftrain.data.examples import Examples
from hftrain.data.packing import Packed
from hftrain.data.plan import Plan
from hftrain.metrics import rehearse
from hftrain.train import checkpoint
from hftrain.train.flops import count_parameters

if TYPE_CHECKING:
    from torch import nn


def choose_settings(
    model: nn.Module, examples: Examples, config: TrainConfig, held_out: Mapping[str, Sequence[Any]] | None = None
) -> tuple[Plan, int]:
    """Fills in the open settings of `config`; returns the plan and the number of steps. A resumed run uses the values
    of its checkpoint. Every process must call.

    Args:
        held_out: the examples of other splits by name.

    Raises:
        ConfigError: a setting of the user contradicts a chosen one.
        SystemExit: `--print_config` was given; the settings are printed.
    """
    parameters = count_parameters(model)
    adapted = hasattr(model, "peft_config")
    lengths = examples.lengths
    tokens = lengths.sum(axis=1)
    packs = examples.packs if isinstance(examples, Packed) else None
    known = defaults.Known(
        task=config.task_family,
        examples=len(examples) if packs is None else len(packs.members),
        tokens=int(tokens.sum()),
        parameters=parameters - count_parameters(model, trained=True) if adapted else parameters,
        new=getattr(config, "model_name_or_path", None) is None,
        adapters=adapted,
        longest=int(tokens.max(initial=1)),
        packs=None if packs is None else len(packs),
        metric=config.metric_for_best_model or config.scored_by,
        validation=len(held_out["validation"]) if held_out and "validation" in held_out else None,
    )
    defaults.fill(config, known, pinned(config))
    plan = Plan(
        lengths,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        global_batch_tokens=config.global_batch_tokens,
        grouped=config.train_sampling_strategy == "group_by_length",
    )
    total = plan.total_steps(config.num_train_epochs, config.max_steps)
    defaults.fill_cadence(config, total)
    config.check()
    if printing.requested():
        printing.show(config)
    return plan, total


def choose_best_metric(
    config: TrainConfig, task: str, metrics: Sequence[str], references: Mapping[str, Any], *, labels: Sequence[str] = ()
) -> None:
    """Tries the metrics on the references of the held-out splits, before any training, and fills in
    `metric_for_best_model` if it is open. The arguments are those of `hftrain.metrics.rehearse`, which raises."""
    held_out = {name: references[name] for name in ("validation", "test")}
    best = rehearse(metrics, task, held_out, labels=labels, best=config.metric_for_best_model)
    config.choose("metric_for_best_model", best, defaults.BY_METRIC)


def pinned(config: TrainConfig) -> dict[str, Any]:
    """The choices of the run that is resumed. A version that chose nothing recorded its defaults."""
    contract = checkpoint.contract_of(config.output_dir, config.resume_from_checkpoint)
    before = contract.get("chosen", {"max_steps": contract.get("total_steps"), **contract})
    if contract:
        # true where it was not set, before it was chosen
        before = {"load_best_model_at_end": contract.get("load_best_model_at_end")} | before
    return {name: value for name, value in before.items() if value is not None}
