"""The rows of `hftrain plan`: a way to train, a strategy and a micro-batch, with what it needs and a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from hftrain.data.examples import fetch
from hftrain.data.plan import seed_all
from hftrain.losses import Batch
from hftrain.models.freezing import narrow_frozen
from hftrain.train.forecast.passes import Pass, count_pass
from hftrain.train.forecast.strategies import FILES, Needs, needs, weigh_model
from hftrain.train.forecast.timing import Rate, probe
from hftrain.train.inspect import View

SPARE = 1.1  # a device must have so much more than is counted: its allocator and its kernels need some too
TIMED = 8192  # tokens of a pass that is timed on a CPU
DEVICES = (8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 141, 192, 288)  # GiB of memory of devices that exist


class Row(NamedTuple):
    """One way to run, and what it takes."""

    kind: str
    strategy: str
    processes: int
    micro_batch_size: int
    needs: Needs
    fits: bool
    device_gib: int | None  # the smallest device that it fits on
    seconds: float | None  # a step, without the exchange between devices
    hours: float | None
    price: float | None
    command: str


def rows(
    kind: str,
    view: View,
    *,
    processes: int,
    micro_batches: Sequence[int],
    memory: float,
    rate: Rate | None,
    price_per_hour: float | None,
    command: str,
) -> Iterator[Row]:
    """The rows of one kind of training; `memory` in bytes of a device, `command` with {launch} and {micro}."""
    config, model = view.config, view.model
    bf16, loss = bool(config.bf16), view.loss
    assert loss is not None
    step = view.plan.lengths[view.plan.examples(0)]
    flops = mean_step_flops(view)
    quantized = bool(getattr(config, "load_in_4bit", False))
    plain_weights = weigh_model(model)
    if bf16:
        narrow_frozen(model, torch.bfloat16)
    weights = weigh_model(model)
    order = np.argsort(-view.plan.tokens, kind="stable")
    passes: dict[tuple[int, bool], Pass] = {}
    for micro in micro_batches:
        batch = batch_of(view, order[:micro])
        for strategy in FILES:
            sharded = strategy not in ("one device", "DDP")
            if (quantized and strategy in ("ZeRO-3", "offload", "FSDP2")) or (
                sharded and config.optim != "adamw_torch"
            ):
                continue
            narrow, count = sharded and bf16, 1 if strategy == "one device" else processes
            if (micro, narrow) not in passes:
                passes[micro, narrow] = count_pass(
                    model, batch, loss, bf16=bf16, narrow=narrow, checkpointing=config.activation_checkpointing,
                    selective=config.selective_checkpointing,
                )  # fmt: skip
            several = len(step) > micro * count
            need = needs(
                strategy, plain_weights if sharded else weights, passes[micro, narrow], count, bf16=bf16,
                optim=config.optim, accumulated=several,
            )  # fmt: skip
            file = FILES[strategy]
            launch = f"--config_file ds_configs/{file} --num_processes {count} -- " if file else ""
            updated = weights.trained if strategy in ("one device", "DDP") else weights.trained / count
            seconds = rate.seconds(flops / count, -(-len(step) // (micro * count)), updated) if rate else None
            hours = None if seconds is None else seconds * view.total / 3600
            price = None if hours is None or price_per_hour is None else hours * count * price_per_hour
            yield Row(
                kind, strategy, count, micro, need, need.peak * SPARE <= memory,
                next((gib for gib in DEVICES if need.peak * SPARE <= gib * 2**30), None), seconds, hours, price,
                command.format(launch=launch, micro=micro),
            )  # fmt: skip


def batch_of(view: View, indices: np.ndarray) -> Batch:
    seed_all(view.config.seed, 0, 0)
    chosen = fetch(view.examples, indices.tolist())
    return view.collate([view.augment(row) for row in chosen] if view.augment else chosen)


def mean_step_flops(view: View) -> float:
    """Model FLOPs of a step, the mean of some; 0 if they are unknown."""
    plan = view.plan
    steps = sorted({*np.linspace(0, plan.steps_per_epoch - 1, min(8, plan.steps_per_epoch)).astype(int).tolist()})
    return float(np.mean([view.flops(plan.examples(step)) for step in steps])) if view.flops else 0.0


def probe_rate(view: View, micro: int, device: torch.device) -> Rate:
    """Times a short example of `view`, and `micro` examples of a step at once; on a CPU, those of `TIMED` tokens.

    Raises:
        ValueError: the model's FLOPs are unknown, or see `probe`.
    """
    assert view.loss is not None
    if view.flops is None:
        raise ValueError(f"the FLOPs of {type(view.model).__name__} are unknown")
    order = np.argsort(view.plan.tokens, kind="stable")
    step = view.plan.examples(0)
    step = step[np.argsort(view.plan.tokens[step], kind="stable")]  # of similar lengths, as micro-batches are
    if device.type == "cpu":
        micro = max(1, min(micro, TIMED // int(view.plan.tokens[step[len(step) // 2]])))
    first = max(0, len(step) - micro) // 2
    step = step[first : first + micro]
    batches = [(batch_of(view, some), view.plan.lengths[some]) for some in (order[[len(order) // 4]], step)]
    return probe(view.model, batches, view.loss, device, bf16=bool(view.config.bf16))
