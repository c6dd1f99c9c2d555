"""What `fit` remembers and writes: the run's state, its checkpoints, its best weights, its log."""

import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from hftrain import checkpoint, distributed
from hftrain.config import TrainConfig
from hftrain.data.plan import MicroBatch, Plan
from hftrain.files import share_weights
from hftrain.flops import count_parameters, peak_flops, size
from hftrain.optim import ExponentialMovingAverage, steps_of
from hftrain.report import History, Progress, write_seen
from hftrain.signals import EXIT_INTERRUPTED


@dataclass
class State:
    """What a run has done so far, resumed parts included. All that a checkpoint holds beside tensors."""

    step: int = 0
    samples_seen: int = 0
    tokens_seen: int = 0
    seconds: float = 0.0
    steps_taken: int = 0  # without those skipped
    loss_sum: float = 0.0  # of their mean losses
    nonfinite_steps: int = 0
    step_seconds: float = 0.0  # of `seconds`, those in steps: without evaluations and checkpoints
    flops: float = 0.0  # that the model needed for them
    window: list[tuple] = field(default_factory=list)  # of steps not logged: loss (None: not taken), tokens, s, FLOPs
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    evaluations_since_best: int = 0
    loss_scale: dict[str, Any] = field(default_factory=dict)  # fp16 only


@dataclass
class Outcome:
    """What came of one step."""

    loss: float = math.nan
    grad_norm: float = math.nan
    stop: int = 0  # the signals that processes have seen, summed; 0: none
    out_of_memory: bool = False
    broken: list[MicroBatch] = field(default_factory=list)  # of this process, with a loss that is not finite

    @property
    def taken(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Run:
    """The books of one `fit`."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: Any,
        optimizer: Any,
        config: TrainConfig,
        contract: dict,
        processor: Any,
    ):
        self.accelerator, self.model, self.optimizer, self.config = accelerator, model, optimizer, config
        self.contract, self.processor = contract, processor
        self.state = State()
        self.average: ExponentialMovingAverage | None = None
        self.last_saved: int | None = None
        self.best_saved: tuple[int | None, dict[str, float]] = (None, {})  # step and metrics
        if config.report_to:
            flat = {
                key: value if isinstance(value, int | float | str) else str(value)
                for key, value in asdict(config).items()
            }
            name = config.run_name or Path(config.output_dir).resolve().name
            names: dict[str, Any] = {"wandb": {"name": name}, "trackio": {"name": name}, "mlflow": {"run_name": name}}
            accelerator.init_trackers(os.environ.get("WANDB_PROJECT", "hftrain"), config=flat, init_kwargs=names)

    # ---- begin, go on, stop, end ----

    def resume_or_begin(self, plan: Plan, total: int, seen: dict[str, Any]) -> None:
        """Takes up the checkpoint that `resume_from_checkpoint` means, if any; opens the log and the display.

        `seen`: numbers of the training examples, for the report."""
        config, main = self.config, self.accelerator.is_main_process
        found, notes = checkpoint.find(config.output_dir, config.resume_from_checkpoint)
        distributed.require_agreement(self.accelerator, {f"checkpoint in {config.output_dir}": found and found.name})
        if found:
            saved = checkpoint.read(found, verified=True)
            notes += checkpoint.check_contract(saved.contract, self.contract, config.resume_allow)
            self.state = State(**saved.state)
            self.last_saved = saved.step
            best = self.state.best_step
            if config.load_best_model_at_end and best is not None and not self._best_folder().is_dir():
                notes.append(f"{self._best_folder()} is not there: the best model is chosen anew from here on")
                self.state.best_step, self.state.best_metrics = None, {}
            self.best_saved = self.state.best_step, self.state.best_metrics
            distributed.load_parameters(self.accelerator, self.model, saved.tensors)
            distributed.load_optimizer(self.accelerator, self.model, self.optimizer, saved.tensors)
            if self.accelerator.scaler is not None and self.state.loss_scale:
                self.accelerator.scaler.load_state_dict(self.state.loss_scale)
            notes.append(f"resumed from {found} at step {saved.step:,} of {total:,}")
            if main:
                notes += checkpoint.set_aside(config.output_dir, saved.step)
        if config.ema_decay is not None:
            self.average = ExponentialMovingAverage(self.accelerator.unwrap_model(self.model), config.ema_decay)
            for name, average in self.average.average.items() if found else ():
                average.copy_(distributed.cut_like(average, saved.tensors[f"ema.{name}"]))
        self.history = History(Path(config.output_dir) / "metrics.jsonl", resume_step=self.state.step, enabled=main)
        self.progress = Progress(total, start=self.state.step, enabled=main)
        self.clock = time.perf_counter() - self.state.seconds
        if main:
            write_seen(config.output_dir, seen)
        model = self.accelerator.unwrap_model(self.model)
        trained = sum(size(parameter) for parameter in model.parameters() if parameter.requires_grad)
        for line in (*notes, introduce(self.accelerator, model, trained), plan.describe(total)):
            self.progress.print(line)
        if main and not found:  # fp32 master, two moments, and the export at most as large as the master
            checkpoint.check_free_space(config.output_dir, 16 * trained, config.save_total_limit + 1)

    def leave(self) -> None:
        """Ends a run that was asked to stop, after its checkpoint is saved."""
        command, words = [], iter(sys.argv)
        for word in words:
            option, equals, _ = word.partition("=")
            if option.replace("-", "_") != "__resume_from_checkpoint":
                command.append(word)
            elif not equals:
                next(words, None)  # its value
        command += ["--resume_from_checkpoint", "auto"]
        launcher = "hftrain run" if "HFTRAIN_RUN" in os.environ else "accelerate launch"
        launcher = launcher if distributed.was_launched() else "python"
        saved = "saved" if self.last_saved == self.state.step else f"NOT saved (the last one saved: {self.last_good()})"
        self.progress.print(
            f"stopped after step {self.state.step:,}, {saved}. To go on, on any number of processes:\n"
            f"  {launcher} {shlex.join(command)}"
        )
        sys.exit(EXIT_INTERRUPTED)

    def finish(self) -> None:
        """Leaves the kept weights in the model and in the output folder."""
        config, state = self.config, self.state
        best = self._best_folder()
        keep_best = config.load_best_model_at_end and state.best_step not in (None, state.step)
        problems = checkpoint.verify(best) if keep_best else []
        if problems:  # a full disk kept it from being saved, or somebody deleted it
            self.progress.print(f"the best model cannot be had ({best}: {problems[0]}): the last one is kept")
            state.best_step, state.best_metrics = None, {}
        if keep_best and not problems:
            saved = checkpoint.read(best, verified=True)
            distributed.load_parameters(
                self.accelerator, self.model, saved.tensors, prefix="ema." if self.average else "model."
            )
            self.progress.print(f"kept the best model, of step {state.best_step:,}")
        elif self.average:
            self.average.write(self.average.average)
        export(self.accelerator, self.model, self.processor, Path(config.output_dir))
        self.model.eval()  # what is asked of it from here on is asked without dropout

    def results(self, plan: Plan) -> dict[str, Any]:
        """Totals of the whole run, and the metrics of the model that was kept."""
        state, config = self.state, self.config
        metrics = state.best_metrics if config.load_best_model_at_end and state.best_metrics else state.metrics
        best = {"best_step": state.best_step} if state.best_step is not None else {}
        return {
            "total_steps": state.step,
            "epoch": state.step / plan.steps_per_epoch,
            "samples_seen": state.samples_seen,
            "tokens_seen": state.tokens_seen,
            "train_loss": state.loss_sum / max(1, state.steps_taken),
            "train_runtime": state.seconds,
            "train_tokens_per_second": state.tokens_seen / max(state.seconds, 1e-9),
            **self._speed(state.flops, state.step_seconds, "train_"),
            "nonfinite_steps": state.nonfinite_steps,
            **best,
            **{f"eval_{name}": value for name, value in metrics.items()},
        }

    # ---- each step ----

    def count_step(self, outcome: Outcome, samples: int, tokens: int, seconds: float, flops: float) -> None:
        state = self.state
        state.step += 1
        state.samples_seen += samples
        state.tokens_seen += tokens
        state.seconds = time.perf_counter() - self.clock
        state.step_seconds += seconds
        state.flops += flops
        state.window.append((outcome.loss if outcome.taken else None, tokens, seconds, flops))
        if outcome.taken:
            state.steps_taken += 1
            state.loss_sum += outcome.loss

    def due(self, every: float, total: int) -> bool:
        """Whether something done each `every` steps (under 1: share of `total`) is to be done now."""
        return every > 0 and self.state.step % steps_of(every, total) == 0

    def log(self, outcome: Outcome, learning_rate: float, epoch: float) -> None:
        values = {"loss": outcome.loss, "learning_rate": learning_rate, "grad_norm": outcome.grad_norm}
        self.progress.update(self.state.step, values)
        if not self.due(self.config.logging_steps, self.progress.total):
            return
        losses, tokens, seconds, flops = zip(*self.state.window, strict=True)
        self.state.window = []
        taken = [loss for loss in losses if loss is not None]
        mean = sum(taken) / len(taken) if taken else math.nan
        values |= {"loss": mean, "tokens_per_second": sum(tokens) / sum(seconds)}
        values |= {k: v for k, v in self._speed(sum(flops), sum(seconds)).items() if v != "unknown"}
        self.progress.log(values)
        self.history.append({"step": self.state.step, "epoch": epoch, **values, "seconds": self.state.seconds})
        self.accelerator.log(values, step=self.state.step)

    def _speed(self, flops: float, seconds: float, prefix: str = "") -> dict[str, Any]:
        """Model TFLOP/s of a device, and their share of its peak (MFU); nothing if the recipe counts no FLOPs."""
        if not flops:
            return {}
        rate, peak = flops / seconds / self.accelerator.num_processes, peak_flops(self.accelerator.device)
        return {f"{prefix}tflops": rate / 1e12, f"{prefix}mfu": rate / peak if peak else "unknown"}

    def refuse_or_skip(self, outcome: Outcome, indices: np.ndarray) -> None:
        """A step that was not taken, since its loss or gradient is not finite: the run ends, or goes on if it may."""
        state, config = self.state, self.config
        if self.accelerator.scaler is not None and math.isfinite(outcome.loss):
            return  # fp16 finds its loss scale this way
        state.nonfinite_steps += 1
        rows = sorted(
            int(i) for found in gather_object([[int(i) for m in outcome.broken for i in m.indices]]) for i in found
        )
        what = "gradient norm" if math.isfinite(outcome.loss) else "loss"
        which = "" if rows else "one of the "
        rows = rows or sorted(indices.tolist())
        where = f"{which}training examples {rows}"
        message = f"step {state.step}: the {what} is not finite ({where}); the weights are those of before this step"
        self.history.append({"step": state.step, "event": "not finite", "of": what, "examples": rows})
        if state.nonfinite_steps > config.max_nonfinite_steps:
            raise FloatingPointError(
                f"{message}. Last good checkpoint: {self.last_good()}. Look at these rows, lower learning_rate, or set "
                "max_nonfinite_steps to skip such steps"
            )
        self.progress.print(f"{message}; skipped ({state.nonfinite_steps} of at most {config.max_nonfinite_steps})")

    def evaluate(self, evaluate: Callable[[nn.Module], dict[str, float]]) -> None:
        """Scores the weights that would be kept (their moving average, if there is one)."""
        state, config = self.state, self.config
        self.model.eval()
        with self.progress.phase("evaluating"), self.average.applied() if self.average else nullcontext():
            metrics = evaluate(self.model)
        self.model.train()
        name = config.metric_for_best_model.removeprefix("eval_")
        if name not in metrics:
            raise ValueError(f"metric_for_best_model={name!r} is not evaluated; there are {', '.join(metrics)}")
        best = state.best_metrics.get(name)
        sign = 1 if config.higher_is_better else -1
        if state.step and math.isfinite(metrics[name]) and (best is None or sign * metrics[name] > sign * best):
            state.best_step, state.best_metrics, state.evaluations_since_best = state.step, metrics, 0
        elif state.step:
            state.evaluations_since_best += 1
        state.metrics = metrics
        values = {f"eval_{key}": value for key, value in metrics.items()}
        self.progress.log(values)
        self.history.append({"step": state.step, **values})
        self.accelerator.log(values, step=state.step)

    def patience_lost(self) -> bool:
        patience = self.config.early_stopping_patience
        return patience is not None and self.state.evaluations_since_best >= patience

    # ---- checkpoints ----

    def must_save(self, total: int) -> bool:
        """At each `save_steps`, at the end (also an early one), and when the step is the best and is to be kept."""
        state, config = self.state, self.config
        is_best = config.load_best_model_at_end and state.best_step == state.step
        return self.due(config.save_steps, total) or is_best or state.step == total or self.patience_lost()

    def save(self) -> None:
        state, config = self.state, self.config
        if self.accelerator.scaler is not None:
            state.loss_scale = self.accelerator.scaler.state_dict()
        with self.progress.phase("saving"):
            folder = checkpoint.save(
                self.accelerator,
                config.output_dir,
                state.step,
                tensors=self._tensors(),
                state=asdict(state),
                contract=self.contract,
                export=self._export,
            )
        if folder is None and config.load_best_model_at_end and state.best_step == state.step:
            state.best_step, state.best_metrics = self.best_saved  # the best that can still be kept
        if folder:
            self.last_saved, self.best_saved = state.step, (state.best_step, state.best_metrics)
            if self.accelerator.is_main_process:
                checkpoint.rotate(config.output_dir, config.save_total_limit, self._best_folder())

    def _best_folder(self) -> Path:
        return Path(self.config.output_dir) / f"checkpoint-{self.state.best_step}"

    def last_good(self) -> str:
        return f"checkpoint-{self.last_saved}" if self.last_saved is not None else "none"

    def _tensors(self):
        yield from distributed.named_state(self.accelerator, self.model, self.optimizer)
        if self.average:
            for name, average in self.average.average.items():
                yield f"ema.{name}", average.full_tensor() if hasattr(average, "full_tensor") else average

    def _export(self, folder: Path) -> None:
        with self.average.applied() if self.average else nullcontext():
            export(self.accelerator, self.model, self.processor, folder)

    # ---- memory ----

    def out_of_memory_message(self, micro: MicroBatch) -> str:
        config = self.config
        shapes = ", ".join(
            f"{key} {tuple(value.shape)}" for key, value in micro.batch.items() if hasattr(value, "shape")
        )
        if config.micro_batch_tokens:
            lower = f"Lower micro_batch_tokens (now {config.micro_batch_tokens})"
        else:
            lower = f"Set micro_batch_size under {len(micro.indices)}"
        return (
            f"out of memory in step {self.state.step + 1} with a micro-batch of {shapes}. {lower}: "
            "results change only where the start says so. Or set halve_on_oom, activation_checkpointing or bf16"
        )

    def halve(self, micro_batches: list[MicroBatch]) -> int:
        """Half as many examples as the largest of these micro-batches holds, which did not fit into memory."""
        largest = max(gather_object([max(len(m.indices) for m in micro_batches)]))
        if largest <= 1:
            raise RuntimeError(self.out_of_memory_message(micro_batches[0]))
        size = largest // 2
        self.progress.print(
            f"out of memory in step {self.state.step + 1}: going on with micro-batches of at most {size} examples"
        )
        return size


def run_contract(model: Any, examples: Sequence[Any], plan: Plan, total: int, config: TrainConfig) -> dict[str, Any]:
    """What has to be equal for a resumed run to be the same run."""
    names = ["seed", "global_batch_size", "global_batch_tokens", "learning_rate", "lr_scheduler_type", "warmup_steps"]
    names += ["decay_steps", "min_lr_ratio", "optim", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"]
    names += ["max_grad_norm", "label_smoothing_factor", "ema_decay", "bf16", "fp16"]
    volatile = {"_name_or_path", "transformers_version", "architectures", "auto_map", "use_cache"}
    contract = {name: getattr(config, name) for name in names}
    if hasattr(model, "config"):
        contract["model"] = {k: v for k, v in model.config.to_dict().items() if k not in volatile}
    for name, adapter in getattr(model, "peft_config", {}).items():
        kept = ("peft_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "target_modules")
        settings = adapter.to_dict()
        contract[f"adapter_{name}"] = {key: json_value(settings.get(key)) for key in kept}
    return contract | {"total_steps": total, "examples": len(examples), "data": plan.fingerprint(examples)}


def introduce(accelerator: Accelerator, model: Any, trained: int) -> str:
    """What is trained, and on what, in a line."""
    name, number = type(getattr(model, "get_base_model", lambda: model)()).__name__, count_parameters(model)
    share = "all" if trained == number else f"{trained:,} ({trained / number:.2%})"
    return f"{name}: {number:,} parameters, trained: {share}; {distributed.describe(accelerator)}"


def json_value(value: Any) -> Any:
    """Sets, which have no order, as sorted lists; enumerations as their values."""
    return sorted(value) if isinstance(value, set) else getattr(value, "value", value)


def export(accelerator: Accelerator, model: Any, processor: Any, folder: Path) -> None:
    """Writes what plain `from_pretrained` loads, reads it back and compares; every process calls, the main one writes.

    Raises:
        ValueError: what was written is not what was trained.
    """
    weights = distributed.weights(accelerator, model)
    state_dict = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        module = accelerator.unwrap_model(model)
        module.save_pretrained(folder, state_dict=state_dict)
        if hasattr(module, "peft_config") and getattr(module, "generation_config", None) is not None:
            module.generation_config.save_pretrained(folder)  # an adapter's own save leaves it out
        if any(adapter.modules_to_save for adapter in getattr(module, "peft_config", {}).values()):
            module.config.save_pretrained(folder)  # it has a head, and this says what for
        if processor is not None:
            processor.save_pretrained(folder)
        share_weights(folder)
        checkpoint.check_export(folder, weights, adapters=getattr(module, "peft_config", {}))
