"""Waiting for all processes through torch.distributed's store.

A process that waits in a collective is aborted at the collective's timeout (NCCL's watchdog), even if another process
only needs long to tokenize, to save or to verify. The store has no such timeout, and the watch ends a real hang."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch
from accelerate import PartialState

from hftrain.distributed.watch import moved

LONGEST_NAP = 0.05  # seconds between two looks at the store
_meetings = itertools.count()


def wait_in_store() -> None:
    """From now on, Accelerate's `wait_for_everyone`, also that of `main_process_first`, waits in the store."""
    PartialState.wait_for_everyone = _wait  # type: ignore[method-assign]


def advancing(results: Iterable[Any]) -> Iterator[Any]:
    """The `results` of other threads, each counted as progress: waiting for the next one is not a hang."""
    for result in results:
        moved()
        yield result


def _wait(state: PartialState) -> None:
    if state.num_processes == 1:
        return
    from torch.distributed.distributed_c10d import _get_default_store

    store = torch.distributed.PrefixStore(f"hftrain-meeting-{next(_meetings)}", _get_default_store())
    try:
        _meet(store, state)
    except RuntimeError:  # the launcher, which keeps the store, was killed: its processes still save what they have
        torch.distributed.barrier()


def _meet(store: Any, state: PartialState) -> None:
    store.add("arrived", 1)
    if not state.is_main_process:
        _nap_until(lambda: store.check(["complete"]))
        store.add("left", 1)
        return
    _nap_until(lambda: store.add("arrived", 0) == state.num_processes)
    store.set("complete", "")
    with suppress(RuntimeError):  # all have arrived
        _nap_until(lambda: store.add("left", 0) == state.num_processes - 1)  # our end may be the end of the store


def _nap_until(happened: Callable[[], bool]) -> None:
    nap = 0.001
    while not happened():
        time.sleep(nap)
        nap = min(2 * nap, LONGEST_NAP)
