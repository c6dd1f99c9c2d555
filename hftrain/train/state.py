"""What a run has done so far, and what came of its last step."""

import math
import os
from dataclasses import dataclass, field
from typing import Any, Protocol

from hftrain.data.plan import MicroBatch


class Processor(Protocol):
    """A tokenizer, an image processor or a feature extractor: what is saved beside the model."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], /) -> Any: ...


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
    evaluation_due: bool = False  # of this step; a stop came first
    loss_scale: dict[str, Any] = field(default_factory=dict)  # fp16 only
    rarer: dict[str, int] = field(default_factory=dict)  # eval_steps and save_steps, once it is known what they cost


@dataclass
class Outcome:
    """What came of one step."""

    loss: float = math.nan
    grad_norm: float = math.nan
    router_loss: float | None = None  # of a model with experts, before its coefficient
    stop: int = 0  # the signals that processes have seen, summed; 0: none
    out_of_memory: bool = False
    broken: list[MicroBatch] = field(default_factory=list)  # of this process, with a loss that is not finite

    @property
    def taken(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)
