"""What `fit` needs for preferences: the loss, the reference model's log-probabilities, evaluation.

Shapes: B examples of a batch, T tokens. Each example is two sequences of prompt and answer. For pairs, the chosen
answer comes first, then the rejected one; for KTO, the labelled answer, then another example's answer to this prompt.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from hftrain import disk, distributed
from hftrain.data.examples import Examples
from hftrain.data.files import cache, cannot_write
from hftrain.data.plan import MicroBatch
from hftrain.losses import Batch, Loss, exact, send
from hftrain.tasks.preference.config import PreferenceConfig, PreferenceRecipeConfig
from hftrain.tasks.preference.losses import BOTH, FIRST, SECOND, count_examples, objective, rewards, sequence_log_probs
from hftrain.train.evaluation import predict
from hftrain.train.inspect import inspecting

logger = logging.getLogger(__name__)


@torch.no_grad()
def reference_log_probs(
    accelerator: Accelerator, model: nn.Module, batch: Batch, config: PreferenceConfig, sides: slice = BOTH
) -> torch.Tensor | float:
    """log ref(y|x), (B, 2) or (B, 1) for one side: the batch's "reference", or computed now without the adapters; 0
    without a reference model.

    Raises:
        ValueError: the model without its adapters is not the model that training started from.
    """
    if not config.needs_reference:
        return 0.0
    if "reference" in batch:
        return batch["reference"][:, sides]
    module = accelerator.unwrap_model(model)
    adapters = getattr(module, "peft_config", {}).values()
    if (
        not adapters
        or hasattr(module, "trained_from")
        or any(isinstance(a.init_lora_weights, str) and a.init_lora_weights != "gaussian" for a in adapters)
    ):
        raise ValueError(
            "precompute_ref_log_probs=false needs new LoRA adapters that start without effect (use_peft, without PiSSA "
            "and the like), since the model with its adapters off is the reference. Leave precompute_ref_log_probs on"
        )
    with _evaluating(model), module.disable_adapter():
        return sequence_log_probs(model, batch, sides)[0]


@dataclass
class ReferencePoint:
    """z0 of KTO: the mean of r(y') over the second sequences y' of all examples of a step, at least 0, with the weights
    at the beginning of the step. Its `measure` is `fit`'s `before_step`: a forward pass without gradients.

    The paper averages over a micro-batch (section 4.1), which depends on the cut; the mean over the step is the same on
    any number of processes.
    """

    accelerator: Accelerator
    config: PreferenceConfig
    value: float = 0.0

    @torch.no_grad()
    def measure(self, model: nn.Module, micro_batches: Sequence[MicroBatch]) -> None:
        ratios_of_all, count = [], 0  # read at once: each reading waits for a GPU
        for micro in micro_batches:
            batch = send(micro.batch, self.accelerator.device)
            reference = reference_log_probs(self.accelerator, model, batch, self.config, SECOND)
            with _evaluating(model):
                ratios = sequence_log_probs(model, batch, SECOND)[0] - reference
            if len(micro.indices):  # otherwise it is a filler on a process without examples
                ratios_of_all.append(ratios.to(exact(ratios.device)).sum())
                count += len(ratios)
        summed = float(sum(ratios_of_all))
        summed, items = distributed.total(self.accelerator, summed, count)
        self.value = max(0.0, summed / items)


def preference_loss(
    accelerator: Accelerator, config: PreferenceConfig, reference_point: ReferencePoint | None = None
) -> Loss:
    """The loss that `config` chooses. `reference_point` is for KTO."""
    sides = FIRST if config.loss_type == "kto" else BOTH

    def summed(model: nn.Module, batch: Batch) -> torch.Tensor:
        reference = reference_log_probs(accelerator, model, batch, config, sides)  # before the pass with gradients
        log_probs, tokens = sequence_log_probs(model, batch, sides)
        point = reference_point.value if reference_point else 0.0
        return objective(config, log_probs, tokens, reference, batch.get("desirable"), point)

    return Loss(summed, count_examples)


def with_reference(
    accelerator: Accelerator,
    model: nn.Module,
    examples: Examples,
    batch_size: int,
    collate: Callable[[list[Any]], Batch],
) -> Examples:
    """The examples with a column "reference": [log ref(first), log ref(second)], ref being `model` as it is now.

    Call it before `fit`, while the model has the weights that training starts from; a resumed run does the same. Every
    process must call. The results are cached; the key depends on the examples, the weights and the precision.
    """
    named = [(name, parameter, ()) for name, parameter in model.named_parameters()]
    key = [examples.fingerprint, accelerator.mixed_precision, distributed.fingerprint_parameters(accelerator, named)]
    file = cache() / f"reference-{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.npy"
    distributed.place(accelerator, model)
    with distributed.gathered(model), _evaluating(model), accelerator.autocast():
        cached = [np.load(file) if accelerator.is_main_process and file.is_file() else None]
        broadcast_object_list(cached)
        log_probs = cached[0]
        if log_probs is None:

            def compute(batch: Batch) -> list[list[float]]:
                return sequence_log_probs(model, batch)[0].tolist()

            by_example = predict(accelerator, examples, batch_size, collate=collate, generate=compute)
            log_probs = np.array(by_example, dtype=np.float32)
            if accelerator.is_main_process:
                try:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with disk.beside(file) as staged:
                        with staged.open("wb") as opened:
                            np.save(opened, log_probs)
                        disk.sync(staged)
                        disk.move(staged, file)
                except OSError as error:
                    raise ValueError(cannot_write(file, error)) from error
    joined = examples.items.add_column("reference", list(log_probs))  # type: ignore[attr-defined]
    # keep the fingerprint of the data: the last bits of the column depend on the machine
    return examples.replaced(items=joined)


def add_references(
    accelerator: Accelerator,
    model: Any,
    examples: Mapping[str, Examples],
    config: PreferenceRecipeConfig,
    collate: Callable[[list[Any]], Batch],
) -> dict[str, Examples]:
    """`with_reference` of each split; as they are where the loss needs no reference, where each step computes it, and
    where `fit` will train nothing."""
    if inspecting() or not (config.needs_reference and config.precompute_ref_log_probs):
        return dict(examples)
    batch_size = config.eval_batch_size
    return {name: with_reference(accelerator, model, split, batch_size, collate) for name, split in examples.items()}


def evaluate_preferences(
    accelerator: Accelerator,
    model: nn.Module,
    examples: Sequence[Any],
    batch_size: int,
    config: PreferenceConfig,
    collate: Callable[[list[Any]], Batch],
) -> dict[str, float]:
    """Loss and rewards over all examples.

    The reward of an answer is what the loss compares: beta r(y), or for ipo, simpo and orpo beta r(y) / |y|.

    Returns:
        loss; means logps_chosen and logps_rejected of log pi(y|x); means reward_chosen and reward_rejected, and their
        difference reward_margin; reward_accuracy, the share of pairs whose chosen answer has the higher reward.
        For KTO chosen and rejected are the good and the bad answers, and reward_accuracy is the share of answers on
        the correct side of reference_point, which is computed over all examples. Without good (or bad) answers, their
        metrics are left out.
    """

    def score(batch: Batch) -> list[Any]:
        reference = reference_log_probs(accelerator, model, batch, config)
        log_probs, tokens = sequence_log_probs(model, batch)
        desirable = batch.get("desirable", torch.zeros(len(tokens)))
        references = torch.zeros_like(log_probs) + reference
        return torch.cat([log_probs, tokens, references, desirable[:, None]], dim=1).tolist()

    table = torch.tensor(
        predict(accelerator, examples, batch_size, collate=collate, generate=score, by_tokens=True), dtype=torch.float64
    )
    log_probs, tokens, references, desirable = table[:, 0:2], table[:, 2:4], table[:, 4:6], table[:, 6].bool()
    ratios = (log_probs - references).unbind(1)
    point = float(ratios[1].mean().clamp(min=0))
    loss = objective(config, log_probs, tokens, references, desirable, point) / len(table)
    chosen, rejected = rewards(config, log_probs, tokens, references).unbind(1)
    chosen_log_probs, rejected_log_probs = log_probs.unbind(1)
    correct = chosen > rejected
    if config.loss_type == "kto":
        chosen, rejected = chosen[desirable], chosen[~desirable]
        chosen_log_probs, rejected_log_probs = chosen_log_probs[desirable], chosen_log_probs[~desirable]
        correct = (ratios[0] > point) == desirable
    metrics: dict[str, Any] = {
        "loss": loss,
        "reward_accuracy": correct.double().mean(),
        "reward_margin": chosen.mean() - rejected.mean(),
        "reward_chosen": chosen.mean(),
        "reward_rejected": rejected.mean(),
        "logps_chosen": chosen_log_probs.mean(),
        "logps_rejected": rejected_log_probs.mean(),
        **({"reference_point": point} if config.loss_type == "kto" else {}),
    }
    for missing, kind, words in ((len(chosen) == 0, "chosen", "good"), (len(rejected) == 0, "rejected", "bad")):
        if missing:
            logger.warning("none of the %d rows of an evaluation has a %s answer", len(table), words)
            for name in ("reward_margin", f"reward_{kind}", f"logps_{kind}"):
                metrics.pop(name, None)
    return {name: float(value) for name, value in metrics.items()}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
