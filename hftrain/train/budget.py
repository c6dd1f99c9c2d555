"""Chooses how many padded tokens a forward pass gets, where the user leaves it open: by measuring a few passes.

A step at once is often not the fastest: short examples are padded to the longest of the step, and large activations
leave the caches of a CPU. The measurement may only choose what cannot change a result, so a step stays uncut if
dropout or a loss depends on the cut. A resumed run keeps the cut of its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from hftrain import disk, distributed
from hftrain.config import TrainConfig
from hftrain.data.examples import Examples, fetch
from hftrain.data.files import cache, cannot_write
from hftrain.data.plan import Plan, augmented, cut, padded_tokens, seed_all
from hftrain.losses import Batch, Loss, send
from hftrain.report.machine import hardware
from hftrain.train import checkpoint
from hftrain.train.trials.memory import left_as_it_was
from hftrain.train.trials.small import drops

logger = logging.getLogger(__name__)

LONG_ENOUGH = 25  # steps: a shorter run ends before a measurement pays, which takes about as long as two steps
TRIES = 3  # passes of each size, of which the fastest counts: the first one allocates
THOROUGH = 100  # steps: a shorter run measures each size once
SAVING = 0.03  # doubling a pass twice must make a token this much cheaper, or the measurement ends
ALIKE = 1.02  # of budgets that are equally fast but for this factor, the smallest: it takes the least memory
COMPUTING = ("activation_checkpointing", "selective_checkpointing", "attn_implementation", "chunked_loss")  # settings
SAMPLE = 8  # steps whose time is computed for each budget


class Pass(NamedTuple):
    """A measured forward and backward pass; infinite seconds: it does not fit into the memory."""

    examples: int
    tokens: int  # with padding
    seconds: float


def choose_budget(
    accelerator: Accelerator,
    model: nn.Module,
    examples: Examples,
    plan: Plan,
    total: int,
    config: TrainConfig,
    *,
    collate: Callable[[list[Any]], Batch],
    loss: Loss,
    augment: Callable[[Any], Any] | None = None,
) -> None:
    """Fills in `micro_batch_tokens` if a step is faster, or as fast in less memory, when it is cut. Every process must
    call; the arguments are those of `fit`, whose loss must not depend on the cut."""
    if config.micro_batch_size is not None or config.micro_batch_tokens is not None:
        return
    if before := checkpoint.contract_of(config.output_dir, config.resume_from_checkpoint):
        if kept := before.get("chosen", {}).get("micro_batch_tokens"):
            config.choose("micro_batch_tokens", kept, "as the checkpoint has it")
        return
    other = distributed.is_sharded(accelerator) or config.torch_compile  # a pass costs more than its tokens
    if other or total < LONG_ENOUGH or config.equal_length_micro_batches:
        return
    inner = accelerator.unwrap_model(model)
    if drops(inner):
        return
    spread = np.linspace(0, plan.steps_per_epoch - 1, min(SAMPLE, plan.steps_per_epoch)).astype(int)
    steps = [plan.lengths[plan.examples(step)] for step in sorted(set(spread.tolist()))]
    most = -(-int(np.median([len(step) for step in steps])) // accelerator.num_processes)
    if most == 1:
        return
    sizes = [min(2**power, most) for power in range(math.ceil(math.log2(most)) + 1)]
    order = np.argsort(examples.lengths.sum(axis=1), kind="stable")
    rows = [middle(order, size) for size in sizes]

    def batch(indices: np.ndarray, draw: int) -> Batch:
        chosen = fetch(examples, indices.tolist())
        if augment is not None:
            chosen = [augmented(augment, row, config.seed, 0, int(i)) for row, i in zip(chosen, indices, strict=True)]
        seed_all(config.seed, 0, draw)
        return collate(chosen)

    if is_random(accelerator, inner, [batch(rows[0], draw) for draw in range(TRIES)], loss):
        return
    tries = TRIES if total >= THOROUGH else 1
    file = _file(accelerator, inner, config, loss, [examples.lengths[indices] for indices in rows], tries)
    passes = _read(accelerator, file)
    if passes is None:
        passes = measure(accelerator, inner, examples.lengths, rows, batch, loss, tries)
        _write(accelerator, file, passes)
    longest = int(plan.tokens.max())
    choice = best_budget(passes, steps, accelerator.num_processes, longest)
    if choice:
        config.choose("micro_batch_tokens", *choice)


def is_random(accelerator: Accelerator, model: nn.Module, batches: Sequence[Batch], loss: Loss) -> bool:
    """Whether these batches of the same rows have other losses. Every process must call."""
    with left_as_it_was(model), accelerator.autocast(), torch.no_grad():
        values = [float(loss.summed(model, send(batch, accelerator.device))) for batch in batches]
    return any(gather_object([any(not math.isclose(value, values[0], rel_tol=1e-5) for value in values)]))


def middle(order: np.ndarray, size: int) -> np.ndarray:
    """`size` indices around the middle of `order`."""
    start = (len(order) - size) // 2
    return order[start : start + size]


def measure(
    accelerator: Accelerator,
    model: nn.Module,
    lengths: np.ndarray,
    rows: Sequence[np.ndarray],
    batch: Callable[[np.ndarray, int], Batch],
    loss: Loss,
    tries: int,
) -> list[Pass]:
    """Times passes over `rows`, which grow, until a token gets no cheaper or the memory is full. Every process must
    call, and all get the times of the slowest."""
    passes: list[Pass] = []
    with left_as_it_was(model), accelerator.autocast():
        for indices in rows:
            seconds = _seconds(accelerator, model, partial(batch, indices), loss, tries)
            model.zero_grad(set_to_none=True)
            slowest = max(gather_object([seconds]))
            passes.append(Pass(len(indices), padded_tokens(lengths[indices]), slowest))
            if math.isinf(slowest) or _no_cheaper(passes):
                break
    return passes


def _seconds(
    accelerator: Accelerator, model: nn.Module, batch: Callable[[int], Batch], loss: Loss, tries: int
) -> float:
    """The time of the fastest of `tries` passes: collate, forward, backward; infinite without the memory for one."""
    cuda = accelerator.device.type == "cuda"
    one_thread = accelerator.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if one_thread else time.perf_counter  # other programs do not count
    seconds = []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        for draw in range(tries):
            began = clock()
            rows = batch(draw)
            value = loss.summed(model, send(rows, accelerator.device))
            (value / max(1, loss.count(rows))).backward()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(clock() - began)
    except RuntimeError as error:
        if not distributed.is_out_of_memory(error):
            raise
        return math.inf
    if cuda:
        moments = 8 * sum(p.numel() for p in model.parameters() if p.requires_grad)
        room = 0.9 * torch.cuda.get_device_properties(accelerator.device).total_memory
        if torch.cuda.max_memory_allocated() + moments > room:
            return math.inf
    return min(seconds)


def _no_cheaper(passes: Sequence[Pass]) -> bool:
    costs = [one.seconds / one.tokens for one in passes]
    return len(costs) > 3 and min(costs[-2:]) > (1 - SAVING) * min(costs[:-2])


def best_budget(
    passes: Sequence[Pass], steps: Sequence[np.ndarray], processes: int, longest: int
) -> tuple[int, str] | None:
    """The smallest budget of the fastest ones, and the reason; None: a step at once.

    Args:
        steps: (n, K) lengths of the examples of some steps.
        longest: tokens of the longest example of all, the least that a budget can be.
    """
    fitting = [one for one in passes if math.isfinite(one.seconds)]
    if not fitting:
        return None

    def seconds(budget: int | None) -> float:
        cuts = [[lengths[part] for part in cut(lengths, processes, micro_batch_tokens=budget)] for lengths in steps]
        tokens = [padded_tokens(part) for parts in cuts for part in parts[::processes]]  # the largest comes first
        return float(sum(seconds_of(fitting, number) for number in tokens)) / len(steps)

    budgets = sorted({max(longest, one.tokens) for one in fitting})
    costs = {budget: seconds(budget) for budget in budgets}
    whole = seconds(None)
    fastest = min(*costs.values(), whole) if len(fitting) == len(passes) else min(costs.values())
    budget = next((budget for budget in budgets if costs[budget] <= ALIKE * fastest), None)
    if budget is None or all(padded_tokens(lengths) <= budget for lengths in steps):
        return None
    at_once = f"{whole:.2g} s at once" if len(fitting) == len(passes) else "which does not fit at once"
    return budget, f"measured here: about {costs[budget]:.2g} s a step, {at_once}"


def seconds_of(passes: Sequence[Pass], tokens: int) -> float:
    """The time of a pass of so many tokens, between the measured ones or in proportion to the largest."""
    last = passes[-1]
    if tokens > last.tokens:
        return last.seconds * tokens / last.tokens
    return float(np.interp(tokens, [one.tokens for one in passes], [one.seconds for one in passes]))


# ---- the cache: what is measured once is not measured again


def _file(
    accelerator: Accelerator, model: Any, config: TrainConfig, loss: Loss, lengths: list[np.ndarray], tries: int
) -> Path:
    """The file for these passes of this model on this machine."""
    architecture = model.config.to_dict() if hasattr(model, "config") else {"": str(model)}
    facts = {
        "model": [type(model).__name__, {k: v for k, v in architecture.items() if k != "_name_or_path"}],
        "trained": [(name, p.shape, str(p.dtype)) for name, p in model.named_parameters() if p.requires_grad],
        "loss": f"{loss.summed.__module__}.{loss.summed.__qualname__}",
        "settings": {name: getattr(config, name, None) for name in COMPUTING},
        "machine": [hardware(), str(accelerator.device), torch.get_num_threads(), accelerator.num_processes],
        "precision": accelerator.mixed_precision,
        "versions": checkpoint.versions(),
        "lengths": [rows.tolist() for rows in lengths],
        "tries": tries,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
    return cache() / "passes" / f"{digest}.json"


def _read(accelerator: Accelerator, file: Path) -> list[Pass] | None:
    """What the main process reads from the cache; None if it is not there, or damaged."""
    passes = None
    if accelerator.is_main_process:
        with suppress(OSError, ValueError, TypeError):
            passes = [Pass(*values) for values in json.loads(file.read_text())]
    return broadcast_object_list([passes])[0]


def _write(accelerator: Accelerator, file: Path, passes: list[Pass]) -> None:
    if accelerator.is_main_process:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            disk.write(file, json.dumps(passes))
        except OSError as error:
            logger.warning("%s: the next run measures its passes again", cannot_write(file, error))
