"""Resumes from a checkpoint: restores a run, and returns notes on differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from hftrain import distributed
from hftrain.config import TrainConfig
from hftrain.data.plan import Plan, same_cut
from hftrain.train import checkpoint
from hftrain.train.contract import COMPARABLE, compare

if TYPE_CHECKING:
    from hftrain.train.run import Run

LOOK_AHEAD = 20  # steps in which the cut is compared


def beside_state(run: Run) -> dict[str, Any]:
    """Facts that a checkpoint records besides `State`, so that the next start can compare them."""
    return {
        "cut": arguments_of_cut(run.accelerator, run.config),
        "log_lines": run.history.lines,
        "without_optimizer_state": distributed.without_state(run.accelerator, run.model, run.optimizer),
    }


def arguments_of_cut(accelerator: Accelerator, config: TrainConfig) -> dict[str, int | None]:
    """The arguments of `cut` except lengths."""
    sizes = {"micro_batch_size": config.micro_batch_size, "micro_batch_tokens": config.micro_batch_tokens}
    equal = {"equal_lengths": True} if config.equal_length_micro_batches else {}
    return {"processes": accelerator.num_processes, **sizes, **equal}


def take_up(run: Run, saved: checkpoint.Saved, plan: Plan, total: int) -> list[str]:
    """Restores state, weights and optimizer of `saved` in `run`; returns lines to print. Every process must call.

    Raises:
        ValueError: `saved` belongs to another run, or does not fit this one.
    """
    accelerator, config, state = run.accelerator, run.config, run.state
    changed, notes = compare(saved, run.contract, config.resume_allow)
    for name in vars(state).keys() & saved.state.keys():
        setattr(state, name, saved.state[name])
    distributed.load_parameters(accelerator, run.model, saved.tensors)
    notes += _load_optimizer(run, saved, changed)
    if accelerator.scaler is not None and state.loss_scale:
        accelerator.scaler.load_state_dict(state.loss_scale)
    if (reasons := changed - COMPARABLE) and state.best_step is not None:
        notes.append(f"the best model is chosen anew from here on, since {', '.join(sorted(reasons))} changed")
        state.best_step, state.best_metrics, state.evaluations_since_best = None, {}, 0
    if config.load_best_model_at_end and state.best_step is not None and not run.best_folder().is_dir():
        notes.append(f"{run.best_folder()} is missing: the best model is chosen anew from here on")
        state.best_step, state.best_metrics = None, {}
    before, now = saved.state.get("cut"), arguments_of_cut(accelerator, config)
    if before and not same_cut(plan, range(saved.step, min(saved.step + LOOK_AHEAD, total)), before, now):
        notes.append(
            f"the micro-batches differ from the saved run ({_shown(before)}, now {_shown(now)}): dropout and a random "
            "collate differ from an uninterrupted run; everything else agrees up to rounding"
        )
    return [*notes, f"resumed from {saved.folder} at step {saved.step:,} of {total:,}"]


def _load_optimizer(run: Run, saved: checkpoint.Saved, changed: set[str]) -> list[str]:
    if "optim" in changed:
        return ["the optimizer differs from the saved one: its moments begin empty"]
    missing = distributed.load_optimizer(run.accelerator, run.model, run.optimizer, saved.tensors)
    known = saved.state.get("without_optimizer_state")  # version 0.1.0 did not record them
    lost = [name for name in missing if name not in (known or ())]
    if lost and known is not None and not changed:
        raise ValueError(
            f"{saved.folder} has no optimizer state for {', '.join(lost[:9])}, although the optimizer had one: resume "
            "from another checkpoint"
        )
    return [f"no optimizer state is saved for {', '.join(lost[:9])}: their moments begin empty"] if lost else []


def _shown(cut: dict[str, int | None]) -> str:
    return ", ".join(f"{name} {value}" for name, value in cut.items() if value is not None)
