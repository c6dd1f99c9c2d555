"""The run of one `fit`: its state, checkpoints, best weights and log."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from hftrain import distributed
from hftrain.config import TrainConfig
from hftrain.config.defaults import describe, stretched
from hftrain.data.plan import Plan
from hftrain.data.sealed import moved_in
from hftrain.report import History, Progress, write_seen
from hftrain.signals import EvaluationStopped, StopSignals
from hftrain.train import checkpoint, ending
from hftrain.train.exporting import export, export_settings, exporter
from hftrain.train.flops import count_parameters
from hftrain.train.optim import ExponentialMovingAverage, steps_of, too_few_steps
from hftrain.train.resuming import beside_state, take_up
from hftrain.train.state import Outcome, Processor, State
from hftrain.train.tracking import Trackers, speed

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass
class Pending:
    """A save that is under way: its step, place, the seconds that training waited for it, the best step and metrics."""

    step: int
    place: Path
    seconds: float
    best: tuple[int | None, dict[str, float]]


class Run:
    """The books of one `fit`."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer,
        config: TrainConfig,
        contract: dict,
        processor: Processor | None,
    ):
        self.accelerator, self.model, self.optimizer, self.config = accelerator, model, optimizer, config
        self.contract, self.processor, self.parameters = contract, processor, list(model.parameters())
        self.state = State()
        self.average: ExponentialMovingAverage | None = None
        self.signals = StopSignals()
        self.last_saved: int | None = None
        self.refuge: Path | None = None  # the last checkpoint, if it could not be written to `output_dir`
        self.best_saved: tuple[int | None, dict[str, float]] = (None, {})  # step and metrics
        self.trackers = Trackers(accelerator, config)
        self.background, self.in_background = checkpoint.Background(), True
        remote = config.remote_dir if accelerator.is_main_process else None
        self.uploads = checkpoint.Uploads(checkpoint.Remote(remote)) if remote else None
        self.pending: Pending | None = None  # the save that is under way

    # ---- begin, resume, stop, end ----

    def resume_or_begin(self, plan: Plan, total: int, seen: dict[str, Any]) -> None:
        """Resumes from the checkpoint of `resume_from_checkpoint`, if any; opens the log and the display.

        `seen`: numbers of the training examples, for the report."""
        config, main = self.config, self.accelerator.is_main_process
        folder, notes = checkpoint.find(config.output_dir, config.resume_from_checkpoint)
        distributed.require_agreement(self.accelerator, {f"checkpoint in {config.output_dir}": folder and folder.name})
        if folder:
            saved = checkpoint.read(folder, verified=True)
            notes += take_up(self, saved, plan, total)
            for name, every in self.state.rarer.items():
                if name in config.chosen and every != getattr(config, name):
                    self._add_reason(name, f"{every:,} since it was timed")
            self.last_saved, self.best_saved = saved.step, (self.state.best_step, self.state.best_metrics)
            self.refuge = None if folder.resolve().parent == Path(config.output_dir).resolve() else folder
            if main:
                notes += checkpoint.set_aside(config.output_dir, saved.step)
        if config.ema_decay is not None:
            self.average = ExponentialMovingAverage(self.accelerator.unwrap_model(self.model), config.ema_decay)
            for name, average in self.average.average.items() if folder else ():
                if f"ema.{name}" in saved.tensors:  # otherwise --resume_allow accepted ema_decay: it begins here
                    distributed.load_like(average, saved.tensors, f"ema.{name}")
        log, evaluated = Path(config.output_dir) / "metrics.jsonl", not self.state.evaluation_due
        self.history = History(log, self.state.step, evaluated=evaluated, enabled=main)
        if folder and main and self.history.lines < (logged := saved.state.get("log_lines", 0)):
            notes.append(
                f"{self.history.path} has {self.history.lines} of the {logged} lines that were logged up to step "
                f"{saved.step:,}, and the report will lack the others: were they deleted, or left in {folder.parent}?"
            )
        self.progress = Progress(total, start=self.state.step, enabled=main, counted=config.counted)
        self.clock = time.perf_counter() - self.state.seconds
        if main:
            write_seen(config.output_dir, seen)
        model = self.accelerator.unwrap_model(self.model)
        trained = count_parameters(model, trained=True)
        few = too_few_steps(
            total, plan.steps_per_epoch, pretrained=getattr(config, "model_name_or_path", None) is not None,
            warmup_steps=config.warmup_steps or 0, max_steps=config.max_steps,
        )  # fmt: skip
        introduction = introduce(self.accelerator, model, trained), plan.describe(total), *few
        lacks = checkpoint.memory_lacks(self._bytes_of_copies(trained))
        if any(distributed.total(self.accelerator, lacks is not None)):
            self.in_background = False
            why = lacks or "another machine lacks the memory for a copy"
            notes.append(f"steps wait while a checkpoint is written: {why}")
        for line in (*notes, *describe(config), *introduction):
            self.progress.print(line)
        if main and not folder:  # fp32 master, two moments, and the export at most as large as the master
            checkpoint.check_free_space(config.output_dir, 16 * trained, config.save_total_limit + 1)

    def finish(self) -> None:
        """Puts the best or the last weights into the model and the output folder."""
        self.settle()
        config, state = self.config, self.state
        best = self.best_folder()
        keep_best = config.load_best_model_at_end and state.best_step not in (None, state.step)
        problems = checkpoint.verify(best) if keep_best else []
        if problems:  # it was not saved on a full disk, or was deleted
            self.progress.print(f"the best model is not available ({best}: {problems[0]}): the last one is used")
            state.best_step, state.best_metrics = None, {}
        if keep_best and not problems:
            saved = checkpoint.read(best, verified=True)
            distributed.load_parameters(
                self.accelerator, self.model, saved.tensors, prefix="ema." if self.average else "model."
            )
            self.progress.print(f"kept the best model, of step {state.best_step:,}")
        elif self.average:
            self.average.write(self.average.average)
        folder, step = Path(config.output_dir), state.best_step if keep_best else state.step
        main = self.accelerator.is_main_process
        with ending.explain_export(self), moved_in(folder, step=step) if main else nullcontext(folder) as staging:
            export(self.accelerator, self.model, self.processor, staging)
        self.finish_uploads()
        self.model.eval()  # from here on without dropout

    def results(self, plan: Plan) -> dict[str, Any]:
        """Totals of the whole run, and the metrics of the final model."""
        state, config, model = self.state, self.config, self.accelerator.unwrap_model(self.model)
        metrics = state.best_metrics if config.load_best_model_at_end and state.best_metrics else state.metrics
        return {
            "total_steps": state.step,
            "epoch": state.step / plan.steps_per_epoch,
            "samples_seen": state.samples_seen,
            "tokens_seen": state.tokens_seen,
            "train_loss": state.loss_sum / max(1, state.steps_taken),
            "train_runtime": state.seconds,
            "train_tokens_per_second": state.tokens_seen / max(state.seconds, 1e-9),
            **speed(self.accelerator, state.flops, state.step_seconds, "train_"),
            "nonfinite_steps": state.nonfinite_steps,
            "parameters": count_parameters(model),
            "trained_parameters": count_parameters(model, trained=True),
            **({} if state.best_step is None else {"best_step": state.best_step}),
            **{f"eval_{name}": value for name, value in metrics.items()},
        }

    # ---- each step ----

    def count_step(self, outcome: Outcome, samples: int, tokens: int, seconds: float, flops: float) -> None:
        self.background.look()
        if self.uploads:
            self.uploads.look()
        self.state.count(outcome, samples, tokens, seconds, flops)
        self.state.seconds = time.perf_counter() - self.clock

    def due(self, name: str, total: int) -> bool:
        """Whether it is time for `eval_steps`, `save_steps` or `logging_steps`."""
        every = self.state.rarer.get(name, getattr(self.config, name))
        return every > 0 and self.state.step % steps_of(every, total) == 0

    def weigh(self, name: str, seconds: float) -> None:
        """Makes evaluations or checkpoints less frequent if a measured one takes too much of the run. Every process
        must call; all decide alike."""
        state = self.state
        if name not in self.config.chosen or name in state.rarer or not state.step:
            return
        seconds_each, steps = distributed.total(self.accelerator, seconds, state.step_seconds)
        every, total = int(getattr(self.config, name)), self.progress.total
        cost = f"{seconds_each / self.accelerator.num_processes:.3g} s each would take over a tenth of the run"
        self.make_rarer(name, stretched(every, seconds_each, steps / state.step * total, total), cost)
        if name == "save_steps" and self.config.load_best_model_at_end and "eval_steps" in self.config.chosen:
            now = state.rarer.get("eval_steps", self.config.chosen["eval_steps"].value)
            self.make_rarer("eval_steps", max(now, state.rarer[name]), "each may find a best model, which is saved")

    def make_rarer(self, name: str, every: int, reason: str) -> None:
        """From now on `name` is `every`; the log, the report and the card have it if that is another number."""
        state = self.state
        before = state.rarer.get(name, int(getattr(self.config, name)))
        state.rarer[name] = every
        if every != before:
            self.progress.print(f"{name} is now {every} instead of {before}: {reason}")
            self._add_reason(name, f"from step {state.step:,} on {every:,}")

    def _add_reason(self, name: str, words: str) -> None:
        choice = self.config.chosen[name]
        self.config.chosen[name] = choice._replace(reason=f"{choice.reason}; {words}")

    def log(self, outcome: Outcome, learning_rate: float, epoch: float) -> None:
        values = {"loss": outcome.loss, "learning_rate": learning_rate, "grad_norm": outcome.grad_norm}
        values |= {} if outcome.router_loss is None else {"router_loss": outcome.router_loss}
        self.progress.update(self.state.step, values)
        due = self.due("logging_steps", self.progress.total)
        if not due and self.state.step not in (1, self.progress.total):
            return
        losses, tokens, seconds, flops = zip(*self.state.window, strict=True)
        self.state.window = []
        taken = [loss for loss in losses if loss is not None]
        values["loss"] = sum(taken) / len(taken) if taken else math.nan
        values["tokens_per_second"] = sum(tokens) / sum(seconds)
        values |= {k: v for k, v in speed(self.accelerator, sum(flops), sum(seconds)).items() if v != "unknown"}
        self.progress.log(values)
        self.history.append({"step": self.state.step, "epoch": epoch, **values, "seconds": self.state.seconds})
        self.trackers.log(values, self.state.step)

    def refuse_or_skip(self, outcome: Outcome, indices: np.ndarray) -> None:
        """Handles a skipped step, whose loss or gradient is not finite: the run ends, or continues if allowed."""
        state, config = self.state, self.config
        if self.accelerator.scaler is not None and math.isfinite(outcome.loss):
            return  # fp16 adjusts its loss scale this way
        state.nonfinite_steps += 1
        rows = sorted(
            int(i) for numbers in gather_object([[int(i) for m in outcome.broken for i in m.indices]]) for i in numbers
        )
        what = "gradient norm" if math.isfinite(outcome.loss) else "loss"
        which = "" if rows else "one of the "
        rows = rows or sorted(indices.tolist())
        where = f"{which}training examples {rows}"
        message = f"step {state.step}: the {what} is not finite ({where}); the weights are those of before this step"
        self.history.append({"step": state.step, "event": "not finite", "of": what, "examples": rows})
        if state.nonfinite_steps > config.max_nonfinite_steps:
            self.settle()
            raise FloatingPointError(
                f"{message}. Last good checkpoint: {self.last_good()}. Check these rows, lower learning_rate, or set "
                "max_nonfinite_steps to skip such steps"
            )
        self.progress.print(f"{message}; skipped ({state.nonfinite_steps} of at most {config.max_nonfinite_steps})")

    def evaluate(self, evaluate: Callable[[nn.Module], dict[str, float]]) -> None:
        """Scores the current weights (their moving average, if there is one).

        If a signal stops it, it only sets `state.evaluation_due`."""
        self.settle()
        state, config = self.state, self.config
        began = time.perf_counter()
        self.model.eval()
        state.evaluation_due = True
        average = self.average.applied() if self.average else nullcontext()
        try:
            with self.progress.phase("evaluating"), average, self.signals.evaluation():
                metrics = evaluate(self.model)
        except EvaluationStopped:
            return
        finally:
            self.model.train()
        state.evaluation_due = False
        self.weigh("eval_steps", time.perf_counter() - began)
        name = (config.metric_for_best_model or "loss").removeprefix("eval_")
        if name not in metrics:
            raise ValueError(f"metric_for_best_model={name!r} is not evaluated; the metrics are {', '.join(metrics)}")
        state.compare(metrics, name, higher_is_better=config.higher_is_better)
        values = {f"eval_{key}": value for key, value in metrics.items()}
        self.progress.log(values)
        self.history.append({"step": state.step, **values})
        self.trackers.log(values, self.state.step)

    def patience_lost(self) -> bool:
        patience = self.config.early_stopping_patience
        return patience is not None and self.state.evaluations_since_best >= patience

    # ---- checkpoints ----

    def must_save(self, total: int) -> bool:
        """Saves at each `save_steps`, at the end (also an early one), and when the step is the best."""
        state, config = self.state, self.config
        is_best = config.load_best_model_at_end and state.best_step == state.step
        return self.due("save_steps", total) or is_best or state.step == total or self.patience_lost()

    def save(self, place: Path, *, last: bool) -> None:
        """Saves in the background, unless the run ends (`last`) or has no memory for a copy.

        place: `output_dir`, or another folder if the checkpoint cannot be written there."""
        self.settle()
        state, accelerator = self.state, self.accelerator
        if accelerator.scaler is not None:
            state.loss_scale = accelerator.scaler.state_dict()
        self.history.sync()
        began = time.perf_counter()
        with self.progress.phase("saving"):
            facts = asdict(state) | beside_state(self)
            what: dict[str, Any] = {"state": facts, "contract": self.contract, "then": self._after_save(place)}
            averages = self.average.average if self.average else None
            pieces = distributed.pieces(accelerator, self.model, self.optimizer, averages)
            what["sharded"] = distributed.is_sharded(accelerator)
            if self.in_background and not last:
                copies = self.background.copy(pieces)
                what |= {"export": self._exporter(copies), "pieces": copies, "lasting": True}
                self.background.start(checkpoint.write, accelerator, place, state.step, **what)
                result = None
            else:
                live = pieces if what["sharded"] else list(pieces)
                result = checkpoint.write(
                    accelerator, place, state.step, pieces=live, export=self._exporter(live), **what
                )
                result.warn()
        seconds = time.perf_counter() - began
        self.pending = Pending(state.step, place, seconds, (state.best_step, state.best_metrics))
        if result:
            self._take_in(result)

    def settle(self) -> None:
        """Waits for the save that is under way, and takes in its result. Every process must call."""
        began = time.perf_counter()
        with self.progress.phase("waiting for a checkpoint") if self.background.writing else nullcontext():
            result = self.background.finish()
        if result and self.pending:
            self.pending.seconds += time.perf_counter() - began
            self._take_in(result)

    def finish_uploads(self) -> None:
        """Waits for the uploads of the main process. Every process must call."""
        if self.uploads:
            with self.progress.phase("uploading") if self.uploads.current else nullcontext():
                self.uploads.finish()
        self.accelerator.wait_for_everyone()

    def _take_in(self, result: checkpoint.Result) -> None:
        saved, self.pending, state = self.pending, None, self.state
        assert saved is not None
        if result.folder:
            self.last_saved, self.best_saved = saved.step, saved.best
            self.refuge = None if saved.place == Path(self.config.output_dir) else result.folder
        elif self.config.load_best_model_at_end and state.best_step == saved.step:
            state.best_step, state.best_metrics = self.best_saved  # the best one that is saved
        self.weigh("save_steps", saved.seconds)

    def _after_save(self, place: Path) -> Callable[[Path], object]:
        """Uploads a saved checkpoint, and removes old ones; what is the best model now is kept."""
        config, best, uploads = self.config, self.best_folder(), self.uploads

        def rotate(folder: Path) -> None:
            if uploads:
                uploads.add(folder)
            if place == Path(config.output_dir):
                in_use = uploads.in_use() if uploads else ()
                checkpoint.rotate(config.output_dir, config.save_total_limit, best, saved_now=folder, in_use=in_use)

        return rotate

    def _exporter(self, pieces: Iterable[distributed.Piece]) -> Callable[[Path], None]:
        module = self.accelerator.unwrap_model(self.model)
        if distributed.is_sharded(self.accelerator):
            return lambda folder: export_settings(module, self.processor, folder)
        averaged = self.average is not None
        return exporter(self.accelerator, self.model, self.processor, pieces, averaged=averaged)

    def _bytes_of_copies(self, trained: int) -> int:
        """Bytes that the processes of this machine copy for a save: fp32 weights, two moments, an average."""
        module, accelerator = self.accelerator.unwrap_model(self.model), self.accelerator
        frozen = 0 if hasattr(module, "peft_config") else 4 * (count_parameters(module) - trained)
        size = (12 if self.average is None else 16) * trained + frozen
        if not distributed.is_sharded(accelerator):
            return size if accelerator.is_main_process else 0
        return size // accelerator.num_processes * int(os.environ.get("LOCAL_WORLD_SIZE", 1))

    def best_folder(self) -> Path:
        return Path(self.config.output_dir) / f"checkpoint-{self.state.best_step}"

    def last_good(self) -> str:
        return f"checkpoint-{self.last_saved}" if self.last_saved is not None else "none"


def introduce(accelerator: Accelerator, model: nn.Module, trained: int) -> str:
    """The model, its trained parameters and the device, in a line."""
    name, number = type(getattr(model, "get_base_model", lambda: model)()).__name__, count_parameters(model)
    share = "all" if trained == number else f"{trained:,} ({trained / number:.2%})"
    return f"{name}: {number:,} parameters, trained: {share}; {distributed.describe(accelerator)}"
