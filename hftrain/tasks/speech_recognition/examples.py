"""Recordings with the labels of their texts as examples, which are decoded when a batch needs them.

Shapes: B examples of a batch, L labels.
"""

from __future__ import annotations

import logging
import sys
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from hftrain.audio import read
from hftrain.data.examples import Examples
from hftrain.data.media import fingerprint
from hftrain.data.rows import BadRow, Places, advice, dataset, listed
from hftrain.losses import IGNORE, Batch
from hftrain.tasks.speech_recognition.config import FRAMES, TranscribeConfig
from hftrain.tasks.speech_recognition.losses import frames_of
from hftrain.tasks.speech_recognition.model import Listener

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

LONGEST = 3600  # seconds of a recording whose speed is changed, at most


def make_examples(
    rows: Mapping[str, Rows], listener: Listener, model: Any, config: TranscribeConfig
) -> tuple[dict[str, Rows], dict[str, Examples]]:
    """`usable` of each split."""
    frames = counter(listener, model)
    made = {name: usable(split, listener, config, frames) for name, split in rows.items()}
    return {name: split for name, (split, _) in made.items()}, {name: one for name, (_, one) in made.items()}


def counter(listener: Listener, model: Any) -> Callable[[float], int]:
    """seconds -> labels that the model can write for them at most."""
    if listener.seq2seq:
        return lambda seconds: sys.maxsize
    frames = frames_of(model)
    return lambda seconds: int(frames(torch.tensor(listener.features.steps(seconds))))


def usable(
    rows: Rows, listener: Listener, config: TranscribeConfig, frames: Callable[[float], int]
) -> tuple[Rows, Examples]:
    """Rows as examples {"audio": path, "start", "end", "labels"}; a row that the model cannot learn from is a bad row.
    Their lengths are hundredths of a second; their fingerprint depends on the contents of the recordings.

    Args:
        frames: seconds -> labels that the model can write for them at most.

    Returns:
        the rows that were kept, and their examples; the count "truncated" has the recordings that are cut.

    Raises:
        ValueError: more bad rows than `max_bad_rows`, with their places: longer than the model hears, characters that
            the vocabulary lacks, more labels than frames.
    """
    longest = config.max_seconds or listener.features.window or float("inf")
    spelt = [listener.spell(text) for text in rows["text"]]
    places = rows.places or Places.counted(len(rows))
    bad: list[BadRow] = []
    kept: list[int] = []
    cut = 0
    for number, (row, ids) in enumerate(zip(rows, spelt, strict=True)):
        too_long = row["seconds"] > longest + 1e-3
        seconds = min(row["seconds"], longest)
        reason = None
        if too_long and not config.cut_audio:
            reason = f"{row['audio']} has {row['seconds']:.2f} s, more than the {longest:g} s that the model hears"
            reason += ": set cut_audio to cut such recordings"
        elif unknown := listener.unknown(row["text"]):
            reason = f"the text has characters that the vocabulary lacks: {unknown} (text_case may help)"
        elif (needed := count_needed(ids)) > (there := frames(seconds)):
            reason = f"the text needs {needed} frames, but {row['audio']} of {seconds:.2f} s gives {there}: CTC fails"
        if reason is None:
            kept.append(number)
            cut += too_long
        else:
            bad.append(places.bad(number, reason))
    if len(bad) + len(rows.bad) > config.max_bad_rows:
        raise ValueError(
            f"bad {rows.split} rows, max_bad_rows is {config.max_bad_rows}; the first:\n{listed(bad)}\n{advice(bad)}"
        )
    for row in bad:
        logger.warning("left out: %s", row)
    if cut:
        logger.warning("%d %s recordings are cut to %g s", cut, rows.split, longest)
    if bad:
        rows = replace(rows.select(kept), bad=[*rows.bad, *bad], leaks=rows.leaks)
    labels = [spelt[number] for number in kept]
    seconds = np.minimum(rows["seconds"][:], longest)
    begins = rows["start"][:]
    ends = [
        end if seconds[number] == rows["seconds"][number] else (begins[number] or 0.0) + longest
        for number, end in enumerate(rows["end"][:])
    ]
    columns = {"audio": rows["audio"][:], "start": pa.array(begins, pa.float64()), "end": pa.array(ends, pa.float64())}
    table = pa.table({**columns, "labels": pa.array(labels, pa.list_(pa.int64()))})
    lengths = np.maximum(1, np.ceil(seconds * FRAMES)).astype(int)
    identity = fingerprint(rows, labels, ends)
    examples = Examples(dataset(table), lengths, counts={"truncated": cut}, rows=rows, fingerprint=identity)
    return rows, examples


def count_needed(labels: Sequence[int]) -> int:
    """Frames that CTC needs at least: one for each label, and a blank between two that are equal."""
    return len(labels) + sum(one == other for one, other in pairwise(labels))


def augmentation(
    config: TranscribeConfig, listener: Listener, model: Any
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """example -> {"wave", "masks", "labels"}, a little different each time. Faster speech has fewer frames: it stays so
    long that CTC can write its text."""
    features, vary, frames = listener.features, config.augmentation(), counter(listener, model)

    @cache
    def shortest(needed: int) -> float:
        hundredths = range(FRAMES * LONGEST)
        return bisect_left(hundredths, needed, key=lambda hundredth: frames(hundredth / FRAMES)) / FRAMES

    def augment(example: Mapping[str, Any]) -> dict[str, Any]:
        wave = wave_of(example, features.rate)
        wave = vary(wave, features.rate, features.window, shortest(count_needed(example["labels"])))
        return {"wave": wave, "masks": vary.masks(), "labels": example["labels"]}

    return augment


def wave_of(example: Mapping[str, Any], rate: int) -> np.ndarray:
    return read(example["audio"], rate, example["start"], example["end"])


def collator(listener: Listener) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    return partial(collate, listener=listener)


def collate(examples: Sequence[Mapping[str, Any]], *, listener: Listener) -> Batch:
    """The inputs of `Features`, and labels (B, L), padded with IGNORE; for an encoder-decoder also decoder_input_ids,
    the labels shifted by one. "lengths" stays for CTC."""
    features = listener.features
    waves = [example["wave"] if "wave" in example else wave_of(example, features.rate) for example in examples]
    batch = features(waves, [example["masks"] for example in examples if "masks" in example])
    longest = max(len(example["labels"]) for example in examples)
    labels = torch.full((len(examples), longest), IGNORE)
    for row, example in zip(labels, examples, strict=True):
        row[: len(example["labels"])] = torch.tensor(example["labels"], dtype=torch.long)
    batch["labels"] = labels
    if listener.start is not None:
        del batch["lengths"]
        shifted = torch.cat([torch.full((len(labels), 1), listener.start), labels[:, :-1]], dim=1)
        batch["decoder_input_ids"] = shifted.masked_fill(shifted == IGNORE, listener.tokenizer.pad_token_id)
    return batch
