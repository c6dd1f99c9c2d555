"""The progress of a run, and the outcome of its last step."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hftrain.data.plan import MicroBatch


class Processor(Protocol):
    """A tokenizer, an image processor or a feature extractor: what is saved beside the model."""

    def save_pretrained(self, save_directory: str | Path, /) -> Any: ...


@dataclass
class Outcome:
    """The outcome of one step."""

    loss: float = math.nan
    grad_norm: float = math.nan
    router_loss: float | None = None  # for a model with experts, before its coefficient
    stop: int = 0  # sum of the signals of all processes; 0: no signal
    out_of_memory: bool = False
    broken: list[MicroBatch] = field(default_factory=list)  # micro-batches of this process whose loss is not finite

    @property
    def taken(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


@dataclass
class State:
    """The progress of a run, including resumed parts: everything in a checkpoint besides tensors."""

    step: int = 0
    samples_seen: int = 0
    tokens_seen: int = 0
    seconds: float = 0.0
    steps_taken: int = 0  # without skipped ones
    loss_sum: float = 0.0  # sum of their mean losses
    nonfinite_steps: int = 0
    step_seconds: float = 0.0  # of `seconds`, those in steps: without evaluations and checkpoints
    flops: float = 0.0  # FLOPs that the model needed for them
    window: list[tuple] = field(default_factory=list)  # of steps not logged: loss (None: not taken), tokens, s, FLOPs
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    evaluations_since_best: int = 0
    evaluation_due: bool = False  # evaluation of this step, which a stop prevented
    loss_scale: dict[str, Any] = field(default_factory=dict)  # fp16 only
    rarer: dict[str, int] = field(default_factory=dict)  # eval_steps and save_steps after their cost is measured

    def count(self, outcome: Outcome, samples: int, tokens: int, seconds: float, flops: float) -> None:
        """Adds one step."""
        self.step += 1
        self.samples_seen += samples
        self.tokens_seen += tokens
        self.step_seconds += seconds
        self.flops += flops
        self.window.append((outcome.loss if outcome.taken else None, tokens, seconds, flops))
        if outcome.taken:
            self.steps_taken += 1
            self.loss_sum += outcome.loss

    def compare(self, metrics: dict[str, float], name: str, *, higher_is_better: bool) -> None:
        """Takes in an evaluation, which is the best so far if metric `name` is finite and better, or equal with a lower
        loss; the untrained model is never the best."""
        best, sign = self.best_metrics, 1 if higher_is_better else -1
        better = not best or sign * metrics[name] > sign * best[name]
        if best and metrics[name] == best[name]:
            better = metrics.get("loss", math.inf) < best.get("loss", math.inf)
        if self.step and math.isfinite(metrics[name]) and better:
            self.best_step, self.best_metrics, self.evaluations_since_best = self.step, metrics, 0
        elif self.step:
            self.evaluations_since_best += 1
        self.metrics = metrics
