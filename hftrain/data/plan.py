"""The examples of each step, and the cut of a step into micro-batches.

The plan of an epoch follows from (seed, epoch, lengths) alone, not from processes or memory. `cut` then
divides one step for the available hardware. So the hardware decides the speed of a run and never its results.

Shapes: N examples, K sequences of each example (source and target: 2), P processes.
"""

import atexit
import multiprocessing
import random
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from hftrain.config.errors import explains
from hftrain.data.examples import fetch

WINDOW = 50  # number of steps that are sorted by length together, as in transformers


class Plan:
    """The order of examples: step number -> indices of its examples.

    Args:
        lengths: (N, K) tokens of each sequence of each example.
        seed: seed of the order.
        global_batch_size: examples per step; the last step of an epoch may hold fewer.
        global_batch_tokens: if given, tokens per step instead: an epoch of S tokens is cut into ceil(S /
            global_batch_tokens) steps of equal token share, each within one example's length of it.
        grouped: each step holds examples of similar length: the random order is sorted within windows of several steps
            and cut into steps, whose order is random again; but the costliest step comes first in its epoch, so that
            one that does not fit into the memory fails at once.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        seed: int,
        global_batch_size: int | None = 32,
        global_batch_tokens: int | None = None,
        grouped: bool = False,
    ):
        self.lengths, self.tokens = lengths, lengths.sum(axis=1)
        self.seed, self.size, self.grouped = seed, global_batch_size or len(lengths), grouped
        if not len(lengths):
            raise ValueError("there are no training examples: check the refused rows and the maximum lengths")
        self.share = None  # tokens per step
        if global_batch_tokens is None:
            self.steps_per_epoch = -(-len(lengths) // self.size)
        else:
            self.steps_per_epoch = -(-int(self.tokens.sum()) // global_batch_tokens)
            self.share = self.tokens.sum() / self.steps_per_epoch
            if self.tokens.max() > self.share:
                raise ValueError(
                    f"global_batch_tokens={global_batch_tokens} makes steps of {self.share:.0f} tokens, and example "
                    f"{self.tokens.argmax()} alone has {self.tokens.max()} tokens. Raise global_batch_tokens or lower "
                    "the maximum lengths"
                )
        self._epoch = -1  # the last planned epoch
        self._steps: list[np.ndarray] = []

    def total_steps(self, num_train_epochs: float | None, max_steps: int | None) -> int:
        """Steps of the whole run: `max_steps`, or else those of the epochs (a part of an epoch rounds up)."""
        if max_steps is not None or num_train_epochs is None:
            return max_steps or 1
        return max(1, int(np.ceil(num_train_epochs * self.steps_per_epoch)))

    def describe(self, total: int) -> str:
        """A description of a run of `total` steps, in a line."""
        number, tokens, epochs = len(self.tokens), int(self.tokens.sum()), total / self.steps_per_epoch
        step_size = f"{min(self.size, number):,} examples" if self.share is None else f"{self.share:,.0f} tokens"
        whole = f"{number:,} examples" + (f", {tokens:,} tokens" if tokens > number else "")
        return f"steps: {total:,} of {step_size}; epochs: {epochs:{'.3g' if epochs < 1000 else ',.0f'}} of {whole}"

    def examples(self, step: int) -> np.ndarray:
        """Indices of the examples of `step` (counted from 0 over the whole run), in random order."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._steps = epoch, self._plan_epoch(epoch)
        return self._steps[position]

    def first_steps(self, indices: Sequence[int]) -> list[int]:
        """The step of the first epoch that uses each of these examples."""
        steps = [self.examples(step) for step in range(self.steps_per_epoch)]
        step_of = np.empty(len(self.tokens), dtype=np.int64)
        step_of[np.concatenate(steps)] = np.repeat(np.arange(len(steps)), list(map(len, steps)))
        return step_of[list(indices)].tolist()

    def _plan_epoch(self, epoch: int) -> list[np.ndarray]:
        # Philox is specified bit for bit and NumPy keeps raw streams stable; Generator.permutation is not promised to
        # be
        draws = np.random.Philox(key=[self.seed, epoch]).random_raw(len(self.tokens) + self.steps_per_epoch)
        order = np.argsort(draws[: len(self.tokens)], kind="stable")
        if not self.grouped:
            return self._split(order)
        steps = self._split(self._sorted_in_windows(order))
        shuffled = [steps[i] for i in np.argsort(draws[len(self.tokens) :][: self._full_steps], kind="stable")]
        costs = [padded_tokens(self.lengths[step]) for step in shuffled]
        shuffled.insert(0, shuffled.pop(int(np.argmax(costs))))
        return shuffled + steps[self._full_steps :]

    def _split(self, order: np.ndarray) -> list[np.ndarray]:
        if self.share is None:
            return [order[i : i + self.size] for i in range(0, len(order), self.size)]
        starts = np.cumsum(self.tokens[order]) - self.tokens[order]
        edges = np.searchsorted(starts, self.share * np.arange(1, self.steps_per_epoch))
        return np.split(order, edges)

    @property
    def _full_steps(self) -> int:
        """Steps of an epoch, without the last one if it has fewer examples than the others."""
        return max(1, len(self.tokens) // self.size) if self.share is None else self.steps_per_epoch

    def _sorted_in_windows(self, order: np.ndarray) -> np.ndarray:
        """`order`, sorted by length within windows of up to WINDOW steps, at least four to an epoch. Rising and falling
        ones alternate: a step of tokens that lies in two of them has similar lengths too. The last step of an epoch
        stays a random sample if it holds fewer examples than the others."""
        steps = max(1, min(WINDOW, self.steps_per_epoch // 4))
        if self.share is None:
            end = min(len(order), self._full_steps * self.size)
            window = steps * self.size
        else:
            end = len(order)
            window = steps * len(order) // self.steps_per_epoch
        pieces = []
        for number, start in enumerate(range(0, end, window)):
            piece = order[start : min(start + window, end)]
            rising = np.lexsort((*self.lengths[piece].T, self.tokens[piece]))
            pieces.append(piece[rising[::-1] if number % 2 else rising])
        return np.concatenate([*pieces, order[end:]])


def cut(
    lengths: np.ndarray,
    processes: int,
    *,
    micro_batch_size: int | None = None,
    micro_batch_tokens: int | None = None,
    equal_lengths: bool = False,
) -> list[np.ndarray]:
    """Cuts one step into micro-batches: similar lengths together, each within the budget, a multiple of `processes`
    of them.

    Process p takes micro-batches p, p + processes, ...: neighbours cost about the same, so that processes wait little
    for each other, and the costliest come first, so that a budget too large for the memory fails in the first step.

    Args:
        lengths: (n, K) of the step's examples.
        micro_batch_size: maximum examples.
        micro_batch_tokens: maximum padded tokens: examples x the longest of each of the K sequences.
        equal_lengths: only examples whose K sequences have equal lengths are combined, so that nothing is padded.

    Returns:
        index arrays into the step; empty ones fill up a step that has fewer examples than micro-batches.

    Raises:
        ValueError: a single example exceeds `micro_batch_tokens`.
    """
    size = micro_batch_size or len(lengths)
    budget = micro_batch_tokens or int(len(lengths) * lengths.max(axis=0).sum())
    longest = int(lengths.sum(axis=1).max())
    if longest > budget:
        raise ValueError(
            f"micro_batch_tokens={budget} is less than one example of {longest} tokens: "
            "raise micro_batch_tokens or lower the maximum lengths"
        )
    order = np.lexsort((*lengths.T, lengths.sum(axis=1)))[::-1]
    rows = lengths[order]
    wanted = -(-len(_greedy(rows, size, budget, equal_lengths)) // processes) * processes
    low, high = longest, budget  # the smallest budget that needs no more micro-batches balances them
    tokens = int(lengths.sum())
    while wanted > 1 and high - low > max(1, high // 32):
        middle = (low + high) // 2
        enough = middle * wanted >= tokens and len(_greedy(rows, size, middle, equal_lengths)) <= wanted
        low, high = (low, middle) if enough else (middle, high)
    groups = np.split(order, np.cumsum(_greedy(rows, size, high, equal_lengths))[:-1])
    while len(groups) < wanted and max(map(len, groups)) > 1:
        groups.sort(key=len)
        largest = groups.pop()
        groups += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
    groups += [order[:0]] * (wanted - len(groups))
    return sorted(groups, key=lambda g: -padded_tokens(lengths[g]))


def same_cut(plan: Plan, steps: range, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether `cut`, called with the arguments `before` and with `now`, gives the same micro-batches in `steps`."""
    for step in steps:
        lengths = plan.lengths[plan.examples(step)]
        first, second = cut(lengths, **before), cut(lengths, **now)
        if len(first) != len(second) or not all(map(np.array_equal, first, second)):
            return False
    return True


def padded_tokens(lengths: np.ndarray) -> int:
    """Padded tokens of one micro-batch."""
    return len(lengths) * int(lengths.max(axis=0).sum()) if len(lengths) else 0


def _greedy(rows: np.ndarray, size: int, budget: int, equal: bool) -> list[int]:
    """Sizes of consecutive micro-batches when each takes rows until `size` or `budget` is reached, or their lengths
    change. No row is longer, its K lengths together, than one before it."""
    totals, ranks = rows.sum(axis=1).tolist(), np.arange(1, len(rows) + 1)
    sizes: list[int] = []
    start = 0
    while start < len(rows):
        count = min(size, budget // totals[start]) if totals[start] else size
        ahead = rows[start : start + count]
        if rows.shape[1] > 1:  # else the first is the widest
            padded = np.maximum.accumulate(ahead).sum(axis=1) * ranks[: len(ahead)]
            count = int(padded.searchsorted(budget, side="right"))
        if equal:
            changed = (ahead[:count] != rows[start]).any(axis=1)
            count = int(changed.argmax()) if changed.any() else count
        sizes.append(max(1, min(count, len(ahead))))
        start += sizes[-1]
    return sizes


@dataclass(frozen=True)
class MicroBatch:
    """The examples of one forward pass of one process."""

    number: int  # number among all micro-batches of the step, over all processes: seeds its randomness
    indices: np.ndarray  # indices of its examples; empty if it is a filler on a process without examples
    batch: dict[str, torch.Tensor]


def steps(
    examples: Sequence[Any],
    collate: Callable[[list[Any]], dict[str, torch.Tensor]],
    plan: Plan,
    *,
    start: int,
    stop: int,
    process: int = 0,
    processes: int = 1,
    micro_batch_size: int | None = None,
    micro_batch_tokens: int | None = None,
    equal_lengths: bool = False,
    num_workers: int = 0,
    augment: Callable[[Any], Any] | None = None,
    augment_at: Callable[[int], Callable[[Any], Any] | None] | None = None,
) -> Iterator[tuple[int, np.ndarray, list[MicroBatch]]]:
    """Steps `start` .. `stop` - 1: (step, indices of the whole step's examples, this process's micro-batches,
    collated).

    Args:
        augment: example -> example, with randomness that (seed, step, example) determines: the same in any cut.
        augment_at: step -> such an `augment`, in its place.
    """
    # planned ahead; workers collate in advance
    ahead: deque[tuple[int, np.ndarray, list[tuple[int, np.ndarray]]]] = deque()

    def keys() -> Iterator[tuple[int, int, list[int]]]:
        for step in range(start, stop):
            indices = plan.examples(step)
            cuts = cut(
                plan.lengths[indices],
                processes,
                micro_batch_size=micro_batch_size,
                micro_batch_tokens=micro_batch_tokens,
                equal_lengths=equal_lengths,
            )
            mine = [(number, indices[cuts[number]]) for number in range(process, len(cuts), processes)]
            ahead.append((step, indices, mine))
            yield from ((step, number, mine_indices.tolist()) for number, mine_indices in mine)

    if num_workers:
        atexit.unregister(_kill_workers)
        atexit.register(_kill_workers)  # registered after multiprocessing's function, so it runs before that
    batches = iter(
        DataLoader(
            _Collated(examples, collate, plan.seed, augment_at or (lambda step: augment)),
            sampler=_Keys(keys()),
            batch_size=None,
            num_workers=num_workers,
            pin_memory=torch.cuda.is_available(),
            # collates are closures, which Python 3.14's forkserver cannot pickle
            multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
            worker_init_fn=_leave_signals_to_the_main_process,
            # otherwise every new iterator draws from the global generator
            generator=torch.Generator().manual_seed(plan.seed),
        )
    )
    for _ in range(start, stop):
        first = next(batches)  # plans the step
        step, indices, mine = ahead.popleft()
        collated = [first, *(next(batches) for _ in mine[1:])]
        for error in collated:
            if isinstance(error, Exception):
                raise error
        yield step, indices, [MicroBatch(n, i, batch) for (n, i), batch in zip(mine, collated, strict=True)]


def _kill_workers() -> None:
    """At exit multiprocessing would send SIGTERM, which the workers ignore, and wait for them forever."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would report the killed workers
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ignores signals in workers: Ctrl-C reaches them too, but the current step needs them to finish."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


class _Keys(Sampler):
    """A generator as a sampler of unknown length."""

    def __init__(self, keys: Iterator[Any]):
        self.keys = keys

    def __iter__(self) -> Iterator[Any]:
        return self.keys


class _Collated(Dataset):
    """Collated micro-batches by key (step, number, indices), with randomness that the key determines."""

    def __init__(
        self,
        examples: Sequence[Any],
        collate: Callable[[list[Any]], dict[str, torch.Tensor]],
        seed: int,
        augment_at: Callable[[int], Callable[[Any], Any] | None],
    ):
        self.examples, self.collate, self.seed, self.augment_at = examples, collate, seed, augment_at

    def __getitem__(self, key: tuple[int, int, list[int]]) -> dict[str, torch.Tensor] | Exception:
        """Returns our own errors in a worker, since torch would hide their message in a traceback."""
        try:
            return self._collated(*key)
        except Exception as error:
            if get_worker_info() is None or not explains(error):
                raise
            return error

    def _collated(self, step: int, number: int, indices: list[int]) -> dict[str, torch.Tensor]:
        indices = indices or [0]  # an empty micro-batch is a filler with weight 0
        examples = fetch(self.examples, indices)
        augment = self.augment_at(step)
        if augment is not None:
            examples = [
                augmented(augment, example, self.seed, step, index)
                for index, example in zip(indices, examples, strict=True)
            ]
        seed_all(self.seed, step, number)
        return self.collate(examples)


def augmented(augment: Callable[[Any], Any], example: object, seed: int, step: int, index: int) -> Any:
    """The example `index` with the noise of `step`."""
    seed_all(seed, step, index, 1)  # four numbers: different draws than for a micro-batch
    return augment(example)


def seed_all(*parts: int) -> None:
    """Seeds Python, NumPy and PyTorch with a function of `parts`: randomness that depends on the step needs no
    saving."""
    words = np.random.SeedSequence(parts).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(int(words[0]))
    seed_torch(int(words[0]) << 32 | int(words[1]))


def seed_torch(seed: int) -> None:
    """As `torch.manual_seed`, which takes a hundred times longer: it prepares kinds of accelerators that are absent."""
    torch.default_generator.manual_seed(seed)
    kind = _accelerator()
    module = torch.get_device_module(kind) if kind else None
    if module and not module._is_in_bad_fork():  # a worker process has no accelerator
        (module.manual_seed if kind == "mps" else module.manual_seed_all)(seed)


@cache
def _accelerator() -> str | None:
    """The kind of the available accelerator: "cuda", "mps", ..."""
    device = torch.accelerator.current_accelerator(check_available=True)
    return device.type if device else None
