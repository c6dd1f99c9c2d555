"""Tries on a few examples which parameters get a gradient, and what forward passes change permanently."""

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
    """Makes each forward pass begin with the same attributes and buffers, if forward passes change them (`changes`):
    otherwise a batch would influence the next one, and a resumed run would differ from an uninterrupted one.

    Buffers that are saved (running means of a batch norm) are state and stay.
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


# ---- findings on the model ----


class Findings(NamedTuple):
    """The findings of trial batches."""

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
    """Runs forward passes on the two shortest examples, and on the longest one as in evaluation, where no layer is
    dropped at random; returns and logs the findings.

    A model that ZeRO-3 has sharded, or whose weights are on the main process alone, is not gathered: a small one of its
    kind is tried instead, also for the layers that it lacks. Every process must call. The arguments are those of `fit`.
    """
    findings = Findings([], Changes([], []))
    cut_up, whole = any(hasattr(p, "ds_id") for p in model.parameters()) or distributed.is_away(model), model
    small: Small | None = None
    if cut_up:
        small = None if hasattr(model, "peft_config") else next(stand_ins(model), None)
        if small is None:  # all adapters get gradients
            return findings
        model = small.model
    if any(distributed.total(accelerator, any(parameter.is_meta for parameter in model.parameters()))):
        return findings  # processes without their weights cannot try
    device = next(model.parameters()).device
    order = np.argsort(examples.lengths.sum(axis=1), kind="stable")
    slow = device.type != accelerator.device.type  # a CPU, from which the model will be sharded
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
    except Exception as error:  # if the trial is not at fault, the first step will fail too
        logger.warning(
            "the trial of a few examples failed (%s: %s): parameters without a gradient will decay like the others",
            type(error).__name__, error,
        )  # fmt: skip
        return findings
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # An expert without tokens has others of its kind that get gradients
    kinds = {_kind(name) for name, parameter in trained.items() if id(parameter) in reached}
    tried = {_kind(name) for name in trained}
    parameters = [name for name, p in whole.named_parameters() if p.requires_grad]
    # the loss did without what the small model lacks; what only some of its layers have is not judged
    lacking = {kind for kind in map(_kind, parameters) if kind not in tried and "*" not in kind}
    never = (tried - kinds) | lacking
    findings.unreached.extend(name for name in parameters if _kind(name) in never)
    if findings.unreached:
        shown = list(dict.fromkeys(_kind(name).rpartition(".")[0] for name in findings.unreached))
        logger.warning(
            "%d of %d parameters got no gradient in a trial; without one they stay unchanged, also by weight "
            "decay: %s", len(findings.unreached), len(parameters), ", ".join(shown[:9] + ["..."] * (len(shown) > 9)),
        )  # fmt: skip
    return findings


def _kind(name: str) -> str:
    return re.sub(r"\d+", "*", name)
