"""Which parameters get a gradient, and what forward passes change in a model for good: tried on a few examples."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn

from hftrain import distributed
from hftrain.data.examples import Examples, fetch
from hftrain.data.plan import MicroBatch, seed_all
from hftrain.distributed import leaves
from hftrain.losses import Batch, Loss
from hftrain.train.trials.memory import ABSENT, Changes, Memory, holders_of, left_as_it_was, put
from hftrain.train.trials.small import Small, stand_ins, with_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


class Steady:
    """Makes each forward pass begin with the same attributes and buffers, where `changes` says that forward passes
    change them: else a batch would decide what the next one meets, and a resumed run would not be the unbroken one.

    Buffers that a file holds (running means of a batch norm) are state, and stay.
    """

    def __init__(self, model: nn.Module, changes: Changes):
        holders, buffers = holders_of(model), dict(model.named_buffers())
        there = [(holders[place], key) for place, key in changes.attributes if place in holders]
        self.attributes = [(holder, key, holder.get(key, ABSENT)) for holder, key in there]
        in_files = model.state_dict().keys() if changes.buffers else ()
        kept = [buffers[name] for name in changes.buffers if name not in in_files]
        self.buffers = [(buffer, buffer.detach().clone()) for buffer in kept]
        if self.attributes or self.buffers:
            model.register_forward_pre_hook(lambda *_: self.put_back())

    @torch.no_grad()
    def put_back(self) -> None:
        for holder, key, value in self.attributes:
            put(holder, key, value)
        for buffer, value in self.buffers:
            buffer.copy_(value)


# ---- what a run has to know of its model ----


class Findings(NamedTuple):
    """What trial batches show."""

    unreached: list[str]  # parameters that get no gradient
    changes: Changes


def try_examples(
    accelerator: Accelerator,
    model: PreTrainedModel,
    examples: Examples,
    seed: int,
    *,
    collate: Callable[[list[Any]], Batch],
    loss: Loss,
    before_step: Callable[[nn.Module, list[MicroBatch]], None] | None,
) -> Findings:
    """Forward passes on the two shortest examples, and on the longest one as in evaluation, where no layer is dropped
    by chance; what they show, and a line in the log.

    A model that ZeRO-3 has cut up is not gathered: a small one of its kind is tried in its place, and stands for the
    layers that it lacks. Every process has to call. The arguments are those of `fit`.
    """
    findings = Findings([], Changes([], []))
    cut_up, whole = any(hasattr(parameter, "ds_id") for parameter in model.parameters()), model
    small: Small | None = None
    if cut_up:
        small = None if hasattr(model, "peft_config") else next(stand_ins(model), None)
        if small is None:  # adapters all get gradients
            return findings
        model = small.model
    if any(distributed.total(accelerator, any(parameter.is_meta for parameter in model.parameters()))):
        return findings  # processes that wait for their weights cannot try
    device = next(model.parameters()).device
    order = np.argsort(examples.lengths.sum(axis=1), kind="stable")
    slow = device.type != accelerator.device.type  # a CPU, from where the model will be cut up
    reached: set[int] = set()
    try:
        with left_as_it_was(model), accelerator.autocast():
            for indices, training in ((order[:2], True), (order[:2] if slow else order[-1:], False)):
                model.train(training)
                seed_all(seed, 0, 0)
                micro = MicroBatch(0, indices, collate(fetch(examples, indices.tolist())))
                if before_step:
                    before_step(model, [micro])
                memory = Memory(model)
                batch = with_ids(micro.batch, small.ids) if small else micro.batch
                reached |= leaves(loss.summed(model, send_to_device(batch, device)))
                attributes, buffers = memory.put_back()
                known = findings.changes
                known.attributes.extend(change for change in attributes if change not in known.attributes)
                known.buffers.extend(name for name in buffers if name not in known.buffers)
    except Exception as error:  # if it is no fault of the trial's, the first step will show it
        logger.warning(
            "the trial of a few examples failed (%s: %s): parameters without a gradient will decay as others do",
            type(error).__name__, error,
        )  # fmt: skip
        return findings
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # An expert that no token was sent to has others of its kind that are reached
    kinds = {_kind(name) for name, parameter in trained.items() if id(parameter) in reached}
    never = {_kind(name) for name in trained} - kinds
    parameters = [name for name, p in whole.named_parameters() if p.requires_grad]
    findings.unreached.extend(name for name in parameters if _kind(name) in never)
    if findings.unreached:
        shown = list(dict.fromkeys(_kind(name).rpartition(".")[0] for name in findings.unreached))
        logger.warning(
            "%d of %d parameters got no gradient in a trial, and stay as they are, without weight decay, until one "
            "does: %s", len(findings.unreached), len(parameters), ", ".join(shown[:9] + ["..."] * (len(shown) > 9)),
        )  # fmt: skip
    return findings


def _kind(name: str) -> str:
    return re.sub(r"\d+", "*", name)
