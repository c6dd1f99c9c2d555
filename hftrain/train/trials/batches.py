"""Trials that a step's examples give the same loss for any cut into micro-batches."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import PreTrainedModel

from hftrain import text
from hftrain.config import TrainConfig
from hftrain.data.examples import Examples, fetch
from hftrain.data.packing import Packed
from hftrain.data.plan import seed_all
from hftrain.losses import Batch, Loss
from hftrain.text.causal import causal_lengths
from hftrain.train.trials.language import farthest
from hftrain.train.trials.memory import as_it_was, same_randomness
from hftrain.train.trials.small import (
    base,
    changes_with_length,
    parts,
    stand_ins,
    tokens_of,
    tried_small,
    with_ids,
)

logger = logging.getLogger(__name__)
ROUNDING = 1e-3  # standard deviations of the results


class Dependence(NamedTuple):
    """The change of a row's results in standard deviations of the results; 0 if it is only rounding."""

    padding: float  # beside longer rows
    batch: float  # beside other rows of its length
    history: float  # after other batches


@tried_small
def dependence(model: PreTrainedModel, longest: int, shortest: int) -> Dependence:
    """The dependence of a row's results on the other rows of its batch, for a model that reads tokens.

    Dropout is off; otherwise the model is in training mode, unless that makes it random.
    """
    draw = torch.Generator().manual_seed(0)
    longest = max(longest, 8)
    lengths = (min(max(4, shortest), longest - 2), longest - 1, longest, longest)
    rows = [_row(model, n, draw) for n in lengths]

    def results(*rows: torch.Tensor) -> list[torch.Tensor]:
        batch = {"input_ids": text.pad(rows, _token(model, "pad_token_id") or 0)}
        batch["attention_mask"] = text.attention_mask(rows)
        if model.config.is_encoder_decoder:
            batch["decoder_input_ids"] = batch["input_ids"]
        device = next(model.parameters()).device
        output = _first(model(**{name: value.to(device) for name, value in batch.items()}))
        return list(output.float())

    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    first = results(rows[1])
    if not torch.equal(first[0], results(rows[1])[0]):
        model.eval()
        first = results(rows[1])
    alone = [results(row)[0] for row in rows]
    padded, equal, again = results(*rows[:3]), results(*rows[2:]), results(rows[1])
    if not all(row.isfinite().all() for row in alone):
        raise ValueError("its results are not finite")
    far = (farthest(padded, alone[:3], alone), farthest(equal, alone[2:], alone), farthest(again, first, alone))
    rounding = ROUNDING if model.dtype == torch.float32 else 0.1
    return Dependence(*(value if not value <= rounding else 0.0 for value in far))


def _row(model: PreTrainedModel, length: int, draw: torch.Generator) -> torch.Tensor:
    """Random tokens and, for models that need it, an end token."""
    special = {value for part in parts(model.config) for name, value in vars(part).items() if name.endswith("_token_id")
               and isinstance(value, int)}  # fmt: skip
    rows = tokens_of(model)
    plain = torch.tensor([token for token in range(rows) if token not in special])
    row = plain[torch.randint(len(plain), (length,), generator=draw)]
    end = _token(model, "eos_token_id")
    if end is not None and end < rows:
        row[-1] = end
    return row


def _token(model: PreTrainedModel, name: str) -> int | None:
    token = getattr(model.config, name, None)
    return token[0] if isinstance(token, list) else token


def _first(output: Any) -> torch.Tensor:
    """The logits, or the first tensor of another kind."""
    values = [getattr(output, "logits", None), *(output.values() if isinstance(output, Mapping) else output)]
    return next(value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point())


def check_batches(
    model: PreTrainedModel,
    examples: Examples,
    config: TrainConfig,
    *,
    collate: Callable[[list[Any]], Batch],
    loss: Loss,
    augment: Callable[[Any], Any] | None = None,
    whole_step: bool = False,
) -> list[str]:
    """Tries whether results depend on the cut of a step into micro-batches, and logs how much and what helps.

    Args:
        whole_step: the loss uses the whole step (`before_step` of `fit`), so it cannot be tried separately.

    Returns:
        sentences, also logged; [] if any cut gives the same results.
    """
    with same_randomness():
        rows = causal_lengths(examples.examples) if isinstance(examples, Packed) else examples.lengths
        measured = _of_model(model, int(rows.max()), int(rows.max(axis=1).min()))
        notes = [*_normalised(model), *_advice(model, measured, config)]
        if not whole_step and (measured is None or not any(measured)):
            try:
                notes += _of_loss(model, examples, config.seed, collate, loss, augment)
            except Exception as error:  # of the recipe's own code, which may need more than a trial has
                notes += [f"whether {CUT} could not be tried ({type(error).__name__}: {error})"]
    for note in notes:
        logger.warning("%s", note)
    return notes


CUT = "results depend on micro_batch_size, micro_batch_tokens and the number of processes"


def _normalised(model: nn.Module) -> list[str]:
    """A warning on batch normalisation: its averages depend on the micro-batches."""
    kinds = {type(m).__name__ for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    if not kinds:
        return []
    return [
        f"{type(model).__name__} normalises over the examples of a micro-batch in training "
        f"({', '.join(sorted(kinds))}): {CUT}. No setting makes them exact: {AS_THEY_ARE}"
    ]


AS_THEY_ARE = "do not change these settings between runs that you compare"


def _of_model(model: PreTrainedModel, longest: int, shortest: int) -> Dependence | None:
    """`dependence`; None for a model that cannot be tried."""
    inner = base(model)
    if not isinstance(inner, PreTrainedModel) or inner.main_input_name != "input_ids":
        return None
    try:
        return dependence(model, longest, shortest)
    except Exception as error:  # it reads more than tokens: its loss will be tried on real rows
        logger.debug("%s was not tried on tokens: %s", type(inner).__name__, error)
        return None


def _advice(model: Any, measured: Dependence | None, config: TrainConfig) -> list[str]:
    """Advice on `measured` for the user."""
    if measured is None or not any(measured):
        return []
    name, alone = type(base(model)).__name__, config.micro_batch_size == 1
    if measured.history:
        what, value, remedy = "after rows of other lengths", measured.history, _remedy(model)
    elif measured.batch:
        what, value, remedy = (
            "beside other rows in its micro-batch",
            measured.batch,
            "micro_batch_size=1 makes them exact",
        )
    else:
        what, value = "beside longer rows in its micro-batch", measured.padding
        remedy = "equal_length_micro_batches=true or micro_batch_size=1 makes them exact"
    exact = not measured.history and (alone or (config.equal_length_micro_batches and not measured.batch))
    depends = "" if exact else f"{CUT}{', and a resumed run differs' if measured.history else ''}. {remedy}. "
    scores = "" if config.eval_batch_size == 1 else "Scores depend on eval_batch_size; 1 makes them exact"
    advice = f"{depends}{scores}".rstrip(". ")
    much = f"{name} changes the results of a row {what}, by up to {value:.2g} of their standard deviation"
    return [f"{much}: {advice}"] if advice else []


def _remedy(model: PreTrainedModel) -> str:
    """The remedy for a model that depends on earlier lengths."""
    if kind := changes_with_length(base(model).config):
        return f"Its {kind} positions are the reason: they are exact only for rows no longer than in its pretraining"
    if getattr(base(model).config, "attention_type", None) == "block_sparse":
        return "model_config.attention_type=original_full makes them exact"
    return "No setting makes them exact"


def _of_loss(
    model: PreTrainedModel,
    examples: Examples,
    seed: int,
    collate: Callable[[list[Any]], Batch],
    loss: Loss,
    augment: Callable[[Any], Any] | None,
) -> list[str]:
    """Compares three short examples in one batch with each of them alone."""
    order = np.argsort(examples.lengths.sum(axis=1), kind="stable")
    chosen = sorted({int(order[len(order) * part // 4]) for part in (0, 1, 2)})
    if len(chosen) < 2:
        return []
    rows = fetch(examples, chosen)
    rows = [_augmented(row, augment, seed, number) for number, row in zip(chosen, rows, strict=True)]

    def batch(rows: list[Any], draw: int = 0) -> Batch:
        seed_all(seed, 0, draw)
        return collate(rows)

    together, alone = batch(rows), [batch([row]) for row in rows]
    counts, number = [loss.count(one) for one in alone], len(rows)
    if (counted := loss.count(together)) != sum(counts):
        return [f"count gives {counted} for {number} examples together, {sum(counts)} for each alone: {CUT}"]
    values, rounding = _losses(model, loss.summed, [together, batch(rows, 1), *alone])
    value, other, *separate = values
    rounding *= sum(map(abs, separate))
    if abs(value - other) > rounding:
        return [
            f"collate or loss is random for each micro-batch, not for each example: {CUT}. Draw in augment, which is "
            "seeded by example"
        ]
    if abs(value - sum(separate)) <= rounding:
        return []
    comparison = f"the loss of {number} examples together is {value:.6g}, that of each alone {sum(separate):.6g}"
    items = sum(counts)
    if abs(value * items - sum(part * n for part, n in zip(separate, counts, strict=True))) <= items * rounding:
        return [
            f"{comparison}: it is a mean, and fit would divide by count again. Return the sum over the items; {CUT}"
        ]
    return [
        f"{comparison}: it combines the examples of a micro-batch, or the model does, so {CUT}. Compute what it needs "
        f"of the whole step in before_step of fit, or {AS_THEY_ARE}"
    ]


def _augmented(row: object, augment: Callable[[Any], Any] | None, seed: int, number: int) -> Any:
    if augment is None:
        return row
    seed_all(seed, 0, number, 1)
    return augment(row)


def _losses(
    model: PreTrainedModel, loss: Callable[[PreTrainedModel, Batch], torch.Tensor], batches: list[Batch]
) -> tuple[list[float], float]:
    """The loss of each batch with a small model of the same kind, or with the model itself if that fails; and a bound
    of its rounding error."""
    for small in stand_ins(model):
        try:
            with as_it_was(small.model):
                return [float(loss(small.model, with_ids(batch, small.ids))) for batch in batches], 1e-4
        except Exception as error:  # a loss may need something that the small model lacks, for instance adapters
            logger.debug("the loss was not tried on a small model: %s", error)
    with as_it_was(model):
        first = next(model.parameters())
        rounding = 1e-4 if first.dtype == torch.float32 else 2e-2
        return [float(loss(model, send_to_device(batch, first.device))) for batch in batches], rounding
