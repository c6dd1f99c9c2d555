"""Going on from a checkpoint: what is put back into a run, and what has to be said of it."""

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
    """What a checkpoint records beside `State`, so that the next start can compare it."""
    return {
        "cut": arguments_of_cut(run.accelerator, run.config),
        "log_lines": run.history.lines,
        "without_optimizer_state": distributed.without_state(run.accelerator, run.model, run.optimizer),
    }


def arguments_of_cut(accelerator: Accelerator, config: TrainConfig) -> dict[str, int | None]:
    """The arguments of `cut`, lengths aside."""
    sizes = {"micro_batch_size": config.micro_batch_size, "micro_batch_tokens": config.micro_batch_tokens}
    equal = {"equal_lengths": True} if config.equal_length_micro_batches else {}
    return {"processes": accelerator.num_processes, **sizes, **equal}


def take_up(run: Run, saved: checkpoint.Saved, plan: Plan, total: int) -> list[str]:
    """Puts state, weights and optimizer of `saved` back into `run`; returns lines to print. Every process has to call.

    Raises:
        ValueError: `saved` is of another run, or does not fit this one.
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
        notes.append(f"{run.best_folder()} is not there: the best model is chosen anew from here on")
        state.best_step, state.best_metrics = None, {}
    before, now = saved.state.get("cut"), arguments_of_cut(accelerator, config)
    if before and not same_cut(plan, range(saved.step, min(saved.step + LOOK_AHEAD, total)), before, now):
        notes.append(
            f"steps are cut into other micro-batches than when saved ({_shown(before)}, now {_shown(now)}): dropout, "
            "and what a collate draws, differ from the unbroken run's; all else agrees up to rounding"
        )
    return [*notes, f"resumed from {saved.folder} at step {saved.step:,} of {total:,}"]


def _load_optimizer(run: Run, saved: checkpoint.Saved, changed: set[str]) -> list[str]:
    if "optim" in changed:
        return ["the optimizer is another one than when saved: its moments begin empty"]
    missing = distributed.load_optimizer(run.accelerator, run.model, run.optimizer, saved.tensors)
    known = saved.state.get("without_optimizer_state")  # version 0.1.0 did not record them
    lost = [name for name in missing if name not in (known or ())]
    if lost and known is not None and not changed:
        raise ValueError(
            f"{saved.folder} holds no optimizer state of {', '.join(lost[:9])}, though the optimizer had one: resume "
            "from another checkpoint"
        )
    return [f"no optimizer state is saved of {', '.join(lost[:9])}: their moments begin empty"] if lost else []


def _shown(cut: dict[str, int | None]) -> str:
    return ", ".join(f"{name} {value}" for name, value in cut.items() if value is not None)
