"""Texts to tokens, in order, with one process per core."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from hftrain.data.documents import Batch
from hftrain.distributed import die_with_parent

logger = logging.getLogger(__name__)


class Documents(NamedTuple):
    """Some documents of one split."""

    tokens: np.ndarray  # of all documents, concatenated
    lengths: np.ndarray
    size: int  # bytes of their texts


Encoded = dict[str, Documents]  # by split


class Encoder:
    """Texts -> their tokens by split."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, validation_split: float, seed: int):
        self.tokenizer, self.held_out = tokenizer, int(validation_split * 2**64)
        self.key = seed.to_bytes(8, "big", signed=True)
        ends = [token for token in (tokenizer.eos_token_id, tokenizer.sep_token_id) if token is not None]
        if not ends:
            raise ValueError(f"{type(tokenizer).__name__} has no end token (eos, sep) to separate documents: set one")
        self.end, self.ends = ends[0], set(ends)
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1
        self.dtype = "<u2" if self.vocab_size < 1 << 16 else "<u4"
        word = str(tokenizer.convert_ids_to_tokens(self.end))
        if self.end in self.ids([word])[0][:-1]:
            logger.warning("this tokenizer reads %r in a text as its end token, and no setting changes that", word)

    def ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:  # only bad rows in the batch: tokenizers fail on an empty list
            return []
        rows = self.tokenizer(
            texts, return_attention_mask=False, return_token_type_ids=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        for row in rows:
            if not row or row[-1] not in self.ends:
                row.append(self.end)
        return rows

    def __call__(self, texts: list[str]) -> Encoded:
        splits: dict[str, tuple[list[list[int]], list[int]]] = {}
        for text, row in zip(texts, self.ids(texts), strict=True):
            raw = text.encode()
            drawn = hashlib.blake2b(raw, digest_size=8, key=self.key).digest() if self.held_out else b"\xff"
            split = "validation" if int.from_bytes(drawn, "big") < self.held_out else "train"
            rows, sizes = splits.setdefault(split, ([], []))
            rows.append(row)
            sizes.append(len(raw))
        encoded = {}
        for split, (rows, sizes) in splits.items():
            lengths = np.fromiter(map(len, rows), "<i8", len(rows))
            tokens = np.fromiter(chain.from_iterable(rows), self.dtype, int(lengths.sum()))
            encoded[split] = Documents(tokens, lengths, sum(sizes))
        return encoded


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def workers(encode: Encoder, number: int) -> Iterator[Callable[[Iterator[Batch]], Iterator[tuple[Batch, Encoded]]]]:
    """A function that pairs batches with their tokens, in order, computed by `number` processes (1: this one)."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    executor: Any = None
    if number > 1:
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        executor = ProcessPoolExecutor(number, context, initializer=_begin_worker, initargs=(encode,))

    def in_order(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Encoded]]:
        if executor is None:
            yield from ((batch, encode(batch.texts)) for batch in batches)
            return
        waiting: deque[tuple[Batch, Future[Encoded]]] = deque()

        def first() -> tuple[Batch, Encoded]:
            batch, future = waiting.popleft()
            return batch, future.result()

        try:
            for batch in batches:
                waiting.append((batch, executor.submit(_encode_batch, batch.texts)))
                if len(waiting) > 2 * number:
                    yield first()
            while waiting:
                yield first()
        except BrokenProcessPool as error:
            message = "a worker was killed, perhaps for lack of memory: lower num_workers and start again to continue"
            raise ValueError(message) from error
        finally:
            for _, future in waiting:
                future.cancel()

    try:
        yield in_order
    finally:
        if executor:
            executor.shutdown(cancel_futures=True)
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


_encode: Any = None  # set in each worker


def _begin_worker(encode: Encoder) -> None:
    global _encode
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent()
    _encode = encode


def _encode_batch(texts: list[str]) -> Encoded:
    return _encode(texts)
