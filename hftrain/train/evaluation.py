"""Evaluation processes every example exactly once, with any number of processes and any batch size, and returns results
in order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from hftrain.data.examples import Examples, fetch
from hftrain.data.plan import cut
from hftrain.distributed import is_out_of_memory, total
from hftrain.losses import Batch, Collate, Loss, exact, send
from hftrain.metrics.intervals import Interval, ratio
from hftrain.signals import EvaluationStopped, asked_in_evaluation

T = TypeVar("T")
S = TypeVar("S")
GROUPS = 40  # of examples, from whose losses the interval of the mean is computed


def mean_loss(
    accelerator: Accelerator,
    model: nn.Module,
    examples: Sequence[Any],
    batch_size: int,
    *,
    collate: Collate,
    loss: Loss,
) -> float:
    """Sum of the loss over all items / number of items. `examples`, `collate` and `loss` are as in `fit`; a batch has
    as many tokens as `batch_size` examples of mean length."""
    sums, counts = _summed(accelerator, model, examples, batch_size, 1, collate=collate, loss=loss)
    return float(sums.sum() / counts.sum())


def loss_and_interval(
    accelerator: Accelerator,
    model: nn.Module,
    examples: Sequence[Any],
    batch_size: int,
    *,
    collate: Collate,
    loss: Loss,
) -> tuple[float, Interval | None]:
    """`mean_loss` and its 95 % interval, from groups of examples that are spread evenly; None for a single example."""
    groups = min(GROUPS, len(examples))
    sums, counts = _summed(accelerator, model, examples, batch_size, groups, collate=collate, loss=loss)
    return float(sums.sum() / counts.sum()), ratio(sums, counts)


def _summed(
    accelerator: Accelerator,
    model: nn.Module,
    examples: Sequence[Any],
    batch_size: int,
    groups: int,
    *,
    collate: Collate,
    loss: Loss,
) -> tuple[np.ndarray, np.ndarray]:
    """(groups,) sums of the loss, and numbers of items: the examples i, i + groups, i + 2 groups, ... are a group."""
    lengths, processes = Examples.of(examples).lengths, accelerator.num_processes
    batches = [
        ([group + groups * place for place in places], weight)
        for group in range(groups)
        for places, weight in batches_of(lengths[group::groups], processes, batch_size, by_tokens=True)
    ]
    values: list[torch.Tensor] = []  # read at the end: until then the next batch is prepared while a GPU computes
    counted, group_of = np.zeros(groups), []
    for (indices, weight), batch in zip(
        _share(accelerator, batches), _collated(accelerator, batches, examples, collate), strict=False
    ):
        with _memory(batch), torch.no_grad():
            value = loss.summed(model, send(batch, accelerator.device))
        values.append(value.to(exact(value.device)) * weight)
        group_of.append(indices[0] % groups)
        counted[group_of[-1]] += loss.count(batch) * weight
    added = np.zeros(groups)
    np.add.at(added, group_of, torch.stack(values).tolist())
    totals = np.array(total(accelerator, *added.tolist(), *counted.tolist()))
    if not totals[groups:].any():
        raise ValueError("the evaluation examples have no labels: all of them are masked")
    return totals[:groups], totals[groups:]


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
    by_tokens: bool = False,
) -> list[Any]:
    """One prediction for each example, in the examples' order, on every process.

    Args:
        examples: `Examples`, batched by similar lengths, or any sequence.
        batch_size: examples in a batch at most.
        by_tokens: a batch has instead as many tokens as `batch_size` examples of mean length: not for `generate` that
            writes texts, whose memory grows with the number of rows.
        generate: a batch on the device -> a list with one picklable prediction for each of its rows.
    """
    results: list[tuple[int, Any]] = []
    processes, lengths = accelerator.num_processes, Examples.of(examples).lengths
    batches = batches_of(lengths, processes, batch_size, by_tokens=by_tokens)
    shown = _shown(accelerator, _share(accelerator, batches), len(batches))
    for (indices, _), collated in zip(shown, _collated(accelerator, batches, examples, collate), strict=False):
        batch = send(collated, accelerator.device)
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


def batches_of(
    lengths: np.ndarray, processes: int, batch_size: int, *, by_tokens: bool = False
) -> list[tuple[list[int], int]]:
    """Batches of similar lengths, as (indices, weight), the costliest first: a multiple of `processes` of them.

    Every process gets equally many, since ZeRO-3 and FSDP need all processes in each forward pass; batches that fill up
    a process repeat the first one with weight 0.
    """
    if not len(lengths):
        raise ValueError("there are no examples to evaluate")
    if by_tokens and batch_size > 1:  # 1: for models whose results depend on other rows
        tokens = lengths.sum(axis=1)
        budget = max(int(tokens.max()), int(batch_size * tokens.mean()))
        parts = cut(lengths, processes, micro_batch_tokens=budget)
    else:
        order = np.argsort(lengths.sum(axis=1), kind="stable")[::-1]
        parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        parts += [order[:0]] * (-len(parts) % processes)
    return [(part.tolist(), 1) if len(part) else (parts[0].tolist(), 0) for part in parts]


def _own(accelerator: Processes, batches: Sequence[tuple[list[int], int]]) -> Sequence[tuple[list[int], int]]:
    return batches[accelerator.process_index :: accelerator.num_processes]


def _collated(
    accelerator: Processes, batches: Sequence[tuple[list[int], int]], examples: Sequence[Any], collate: Collate
) -> Iterator[Batch]:
    """This process's batches, the next one of which is made while a GPU works on one. (A CPU has no hands free.)"""
    own = (indices for indices, _ in _own(accelerator, batches))
    device = torch.device(accelerator.device)
    return prepare_ahead(own, lambda indices: collate(fetch(examples, indices)), apart=device.type != "cpu")


def prepare_ahead(items: Iterable[T], prepare: Callable[[T], S], *, apart: bool = True) -> Iterator[S]:
    """`map(prepare, items)`, in another thread if `apart`: the next result is being made while one is used."""
    if not apart:
        yield from map(prepare, items)
        return
    with ThreadPoolExecutor(1, "hftrain batches") as thread:
        waiting: Future[S] | None = None
        for item in items:
            coming = thread.submit(prepare, item)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def _share(accelerator: Processes, batches: Sequence[tuple[list[int], int]]) -> Iterator[tuple[list[int], int]]:
    """This process's batches. Before each one the processes agree whether one of them got a stop signal; then
    EvaluationStopped is raised."""
    for batch in _own(accelerator, batches):
        received = asked_in_evaluation()
        if received is not None and not isinstance(accelerator, OneProcess) and any(total(accelerator, received)):
            raise EvaluationStopped
        yield batch
