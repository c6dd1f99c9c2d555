"""The examples as the model gets them: which of their tokens are learnt, and which problems they have.

`fit` measures a sample of every run for its report. In `hftrain inspect`, which runs any recipe inside
`showing_examples`, it passes the examples on and ends, before anything is trained or written.

Shapes: N examples, T tokens of one example.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from hftrain.config import printing
from hftrain.config.sources import Source, read_source
from hftrain.data.examples import Examples, fetch
from hftrain.data.plan import Plan, augmented, cut, padded_tokens, seed_all
from hftrain.losses import IGNORE, Batch, Loss
from hftrain.report.described import evenly

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hftrain.config.fields import TrainConfig

PICTURES = 64  # examples whose pictures are kept
MARKS = ("boxes", "masks", "class_labels", "pixel_mask")  # of a batch, which a sheet of pictures shows
_ASKED: ContextVar[bool] = ContextVar("inspecting", default=False)


class View(NamedTuple):
    """The arguments of `fit`."""

    examples: Examples
    collate: Callable[[list[Any]], Batch]
    plan: Plan
    config: TrainConfig
    model: PreTrainedModel
    processor: Any
    augment: Callable[[Any], Any] | None = None
    held_out: Mapping[str, Sequence[Any]] | None = None
    loss: Loss | None = None
    flops: Callable[[np.ndarray], float] | None = None
    total: int = 0  # steps of the run


class Seen(Exception):
    """Carries a `View` from `fit` through the recipe to `hftrain inspect`."""

    def __init__(self, view: View):
        super().__init__("fit only shows its examples")
        self.view = view


class Example(NamedTuple):
    """One example as the model sees it.

    kind: the kind of its labels: "next" tokens, tokens in place of "masked" ones, a "target" text, "tags" of tokens,
    one label for the "whole" example, or "none" for unknown labels.
    """

    number: int
    kind: str
    ids: list[int]  # without padding
    labels: list[int]  # the tokens of a target; otherwise those of `ids`, with -100 where nothing is learnt
    rest: dict[str, Any]  # other content of the batch: small values, or shapes
    pixels: torch.Tensor | None = None  # (C, H, W) of an image; of at most `PICTURES` examples
    marks: dict[str, torch.Tensor] | None = None  # what is learnt of places in it: boxes, masks, labels of pixels

    @property
    def learnt(self) -> int:
        return sum(label != IGNORE for label in self.labels)


def inspecting() -> bool:
    """Whether `fit` will only show its examples: work that only the result needs may be skipped."""
    return _ASKED.get() or printing.requested()


@contextmanager
def showing_examples() -> Iterator[None]:
    """A context in which `fit` raises `Seen`."""
    token = _ASKED.set(True)
    try:
        yield
    finally:
        _ASKED.reset(token)


def look(view: View, count: int = 64) -> dict[str, Any]:
    """`measure` of `count` examples, for the report. Raises `Seen` inside `showing_examples`."""
    if _ASKED.get():
        raise Seen(view)
    return measure(view, sample(view, count))


def sample(view: View, count: int) -> list[Example]:
    """`count` examples, evenly spread, each as a separate batch, with the noise of the first step that uses it."""
    chosen = evenly(len(view.examples), count)
    steps, rows = view.plan.first_steps(chosen), fetch(view.examples, chosen)
    with_pixels = set(chosen[:: -(-len(chosen) // PICTURES)])
    examples = [_example(view, *arguments) for arguments in zip(chosen, steps, rows, strict=True)]
    return [one if one.number in with_pixels else one._replace(pixels=None, marks=None) for one in examples]


def _example(view: View, number: int, step: int, row: object) -> Example:
    if view.augment is not None:
        row = augmented(view.augment, row, view.plan.seed, step, number)
    seed_all(view.plan.seed, step, 0)  # for a random collate: as in the first micro-batch
    batch = {name: value for name, value in view.collate([row]).items() if isinstance(value, torch.Tensor)}
    ids, labels = batch.pop("input_ids", torch.zeros(1, 0)), batch.pop("labels", None)
    mask = batch.pop("attention_mask", torch.ones_like(ids)).bool()
    if "token_type_ids" in batch and not batch["token_type_ids"].any():  # there is only one text
        del batch["token_type_ids"]
    marks = {name: batch[name] for name in MARKS if name in batch}
    if labels is not None and labels.ndim == 3:
        marks["labels"] = labels[0]
    kind = _kind(view.model, ids, labels, "decoder_input_ids" in batch)
    others = {name: value.tolist() if value.numel() < 9 else tuple(value.shape) for name, value in batch.items()}
    if kind in ("next", "masked", "tags"):
        learnt = labels[mask] if labels is not None and mask.shape == labels.shape else ids[mask]
    elif kind == "target" and labels is not None:
        learnt = labels[labels != IGNORE]
    else:
        others |= {"label": _named(view.model, labels)} if labels is not None else {}
        learnt = torch.zeros(0)
    tokens = ids[mask] if mask.shape == ids.shape else ids.flatten()
    pixels = batch["pixel_values"][0] if "pixel_values" in batch else None
    return Example(number, kind, tokens.long().tolist(), learnt.long().tolist(), others, pixels, marks)


def _kind(model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor | None, decoder: bool) -> str:
    if labels is None or labels.ndim < 2 or labels.is_floating_point():
        return "none" if labels is None else "whole"
    if decoder or model.config.is_encoder_decoder:
        return "target"
    if labels.shape != ids.shape:  # for instance the begin and end of an answer
        return "whole"
    if (
        model.get_output_embeddings() is None and (model.config.num_labels or 0) > 1
    ):  # with one label it is a reward model
        return "tags"
    learnt = labels != IGNORE
    return "next" if bool((labels == ids)[learnt].all()) else "masked"


def _named(model: PreTrainedModel, labels: torch.Tensor) -> Any:
    """The class that a single label means."""
    if labels.numel() > 1 or labels.is_floating_point():
        return labels.tolist() if labels.numel() < 9 else tuple(labels.shape)
    return (getattr(model.config, "id2label", None) or {}).get(int(labels), int(labels))


def measure(view: View, seen: Sequence[Example]) -> dict[str, Any]:
    """Numbers of the examples `seen`, of the lengths of all, and of the padding in the first steps; only those that
    apply to the task."""
    numbers: dict[str, Any] = {"examples": len(view.examples), "examples looked at": len(seen)}
    lengths = view.plan.tokens
    if lengths.max() > 1:
        numbers |= {"tokens, median": float(np.median(lengths)), "tokens, longest": int(lengths.max())}
        numbers["padding share"] = _padding(view)
    truncated = [count for name, count in view.examples.counts.items() if name.endswith("truncated")]
    if truncated:
        numbers["truncated share"] = sum(truncated) / len(view.examples)
    if seen[0].kind in ("next", "masked", "tags", "target"):
        numbers["nothing learnt"] = sum(not example.learnt for example in seen) / len(seen)
    if seen[0].kind in ("next", "masked", "tags"):
        numbers["tokens learnt"] = sum(e.learnt for e in seen) / max(1, sum(len(e.ids) for e in seen))
    if seen[0].kind in ("next", "target") and (ends := end_ids(view)):
        numbers["end learnt"] = sum(bool(ends.intersection(example.labels)) for example in seen) / len(seen)
    if any(example.ids for example in seen):
        rows = _told_apart(seen, copies=max((math.ceil(source.weight) for source in _sources(view.config)), default=1))
        numbers["duplicates"] = 1 - len(set(rows)) / len(rows)
    return numbers


def _sources(config: TrainConfig) -> list[Source]:
    return [read_source(file) for file in getattr(config, "train_file", None) or []]


def _told_apart(seen: Sequence[Example], copies: int) -> list[tuple[Any, ...]]:
    """The model's input for each row; a row that a weight repeats counts once, if at most `copies` are neighbours."""
    rows: list[tuple[Any, ...]] = []
    first = -copies
    for example in seen:
        row = (*example.ids, IGNORE, *example.labels, str(example.rest))
        if example.number - first >= copies or row != rows[-1]:
            rows.append(row)
            first = example.number
    return rows


def count_rows(view: View) -> dict[str, int]:
    """For all splits whose examples have their rows: how many are "leaked" into the training rows or "refused"."""
    held_out = [split for name, split in (view.held_out or {}).items() if name != "train"]
    counts = {"leaked": 0, "refused": 0}
    for split in (view.examples, *held_out):
        if isinstance(split, Examples):
            counts["refused"] += split.counts["refused"]
            if split.rows is not None:
                counts["refused"] += len(split.rows.bad)
                counts["leaked"] += split.rows.leaks.inputs if split.rows.leaks else 0
    return counts


def end_ids(view: View) -> set[int]:
    """Tokens that end a generated text, by the model or else by the tokenizer."""
    configured = getattr(getattr(view.model, "generation_config", None), "eos_token_id", None)
    tokenizer = tokenizer_of(view.processor)
    ends = {*(configured if isinstance(configured, list) else [configured]), getattr(tokenizer, "eos_token_id", None)}
    return {end for end in ends if end is not None}


def tokenizer_of(processor: object) -> Any:
    return getattr(processor, "tokenizer", processor)


def _padding(view: View, steps: int = 20) -> float:
    """Share of the tokens in the first steps that are padding."""
    plan, config = view.plan, view.config
    padded = tokens = 0
    for step in range(min(steps, plan.steps_per_epoch)):
        lengths = plan.lengths[plan.examples(step)]
        groups = cut(
            lengths,
            1,
            micro_batch_size=config.micro_batch_size,
            micro_batch_tokens=config.micro_batch_tokens,
            equal_lengths=config.equal_length_micro_batches,
        )
        padded += sum(padded_tokens(lengths[group]) for group in groups)
        tokens += int(lengths.sum())
    return 1 - tokens / padded
