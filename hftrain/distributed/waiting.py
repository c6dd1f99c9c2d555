"""Waiting for all processes through torch.distributed's store.

A process that waits in a collective is aborted at the collective's timeout (NCCL's watchdog), even if another process
only needs long to tokenize, to save or to verify. The store has no such timeout, and the watch ends a real hang."""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

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


class MainThreads:
    """Exchanges between the main threads of all processes: they wait in the store, then use collectives."""

    def gather(self, value: object) -> list[Any]:
        """The values of all processes. Every process must call."""
        PartialState().wait_for_everyone()
        return gather_object([value])

    def share(self, value: object) -> Any:
        """The main process's value, on every process. Every process must call."""
        PartialState().wait_for_everyone()
        values = [value]
        broadcast_object_list(values)
        return values[0]


class OtherThreads:
    """The same exchanges between threads beside the main ones, of JSON values: through a connection of their own to the
    store, since their collectives would mix with those of the main threads."""

    def __init__(self, pulse: Callable[[], object]):
        """`pulse` is called while this thread waits; what it raises ends the wait."""
        from torch.distributed.distributed_c10d import _get_default_store

        state = PartialState()
        self.rank, self.processes, self.pulse = state.process_index, state.num_processes, pulse
        self.exchanges = itertools.count()
        self.store: Any = None
        if self.processes > 1:
            self.store = torch.distributed.PrefixStore("hftrain-threads", _get_default_store().clone())  # type: ignore[attr-defined]

    def gather(self, value: object) -> list[Any]:
        """The values of all processes on the main process, [] on the others. Every process must call."""
        if self.store is None:
            return [value]
        number = next(self.exchanges)
        self.store.set(f"{number}-{self.rank}", json.dumps(value))
        if self.rank:
            return []
        keys = [f"{number}-{rank}" for rank in range(self.processes)]
        self._wait_for(keys)
        values = [json.loads(text) for text in self.store.multi_get(keys)]
        for key in keys:
            self.store.delete_key(key)
        return values

    def share(self, value: object) -> Any:
        """The main process's value, on every process. Every process must call."""
        if self.store is None:
            return value
        key = str(next(self.exchanges))
        if not self.rank:
            self.store.set(key, json.dumps(value))
        self._wait_for([key])
        return json.loads(self.store.get(key))

    def _wait_for(self, keys: list[str]) -> None:
        def arrived() -> bool:
            self.pulse()
            return self.store.check(keys)

        _nap_until(arrived)


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
