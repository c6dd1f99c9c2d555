"""Evaluation processes every example exactly once, with any number of processes and any batch size, and returns results
in order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import nn

from hftrain.data.examples import Examples, fetch
from hftrain.distributed import is_out_of_memory, total
from hftrain.losses import Batch, Collate, Loss
from hftrain.signals import EvaluationStopped, asked_in_evaluation


def mean_loss(
    accelerator: Accelerator,
    model: nn.Module,
    examples: Sequence[Any],
    batch_size: int,
    *,
    collate: Collate,
    loss: Loss,
) -> float:
    """Sum of the loss over all items / number of items. `examples`, `collate` and `loss` are as in `fit`."""
    sums = [0.0, 0.0]
    for indices, weight in _share(accelerator, Examples.of(examples).lengths, batch_size):
        batch = collate(fetch(examples, indices))
        with _memory(batch), torch.no_grad():
            value = loss.summed(model, send_to_device(batch, accelerator.device))
        sums[0] += float(value) * weight
        sums[1] += loss.count(batch) * weight
    summed, items = total(accelerator, *sums)
    if items == 0:
        raise ValueError("the evaluation examples have no labels: all of them are masked")
    return summed / items


@dataclass(frozen=True)
class OneProcess:
    """The part of an `Accelerator` that `predict` needs for a finished model on one device."""

    device: str
    num_processes: int = 1
    process_index: int = 0

    def unwrap_model(self, model: nn.Module) -> Any:
        return model


Processes: TypeAlias = Accelerator | OneProcess


def predict(
    accelerator: Processes,
    examples: Sequence[Any],
    batch_size: int,
    *,
    collate: Collate,
    generate: Callable[[Batch], list[Any]],
) -> list[Any]:
    """One prediction for each example, in the examples' order, on every process.

    Args:
        examples: `Examples`, batched by similar lengths, or any sequence.
        generate: a batch on the device -> a list with one picklable prediction for each of its rows.
    """
    results: list[tuple[int, Any]] = []
    batches = _share(accelerator, Examples.of(examples).lengths, batch_size)
    for indices, _ in _shown(accelerator, batches, -(-len(examples) // batch_size)):
        batch = send_to_device(collate(fetch(examples, indices)), accelerator.device)
        with _memory(batch), torch.no_grad():
            predictions = generate(batch)
        if len(predictions) != len(indices):
            raise ValueError(f"generate returned {len(predictions)} predictions for a batch of {len(indices)} examples")
        results += zip(indices, predictions, strict=True)
    if accelerator.num_processes > 1:
        results = gather_object(results)
    by_index = dict(results)  # repeated examples, which fill up the processes, overwrite themselves
    return [by_index[i] for i in range(len(examples))]


def _shown(accelerator: Processes, batches: Iterator[Any], count: int) -> Iterator[Any]:
    """The batches, with a progress bar on the terminal for predictions of a finished model."""
    if not isinstance(accelerator, OneProcess) or count < 2:
        return batches
    from rich.console import Console
    from rich.progress import track

    return iter(track(batches, "predicting", count, console=Console(stderr=True), transient=True))


@contextmanager
def _memory(batch: Batch) -> Iterator[None]:
    """Adds advice to an out-of-memory error of a batch."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in batch.items() if hasattr(value, "shape"))
        raise RuntimeError(
            f"out of memory in evaluation with {shapes}. Lower eval_batch_size: losses do not change"
        ) from error


def _share(accelerator: Processes, lengths: np.ndarray, batch_size: int) -> Iterator[tuple[list[int], int]]:
    """This process's batches of similar lengths, as (indices, weight).

    Before each batch the processes agree whether one of them got a stop signal; then EvaluationStopped is raised.

    Every process gets equally many, since ZeRO-3 and FSDP need all processes in each forward pass; batches that fill up
    a process repeat the first one with weight 0.
    """
    if not len(lengths):
        raise ValueError("there are no examples to evaluate")
    order = np.argsort(lengths.sum(axis=1), kind="stable")[::-1]
    batches = [(order[i : i + batch_size].tolist(), 1) for i in range(0, len(order), batch_size)]
    batches += [(batches[0][0], 0)] * (-len(batches) % accelerator.num_processes)
    for batch in batches[accelerator.process_index :: accelerator.num_processes]:
        received = asked_in_evaluation()
        if received is not None and not isinstance(accelerator, OneProcess) and any(total(accelerator, received)):
            raise EvaluationStopped
        yield batch
