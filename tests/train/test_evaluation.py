"""Evaluation: every example once, in order, whatever the batch size; on two processes it is tested in test_exact.py."""

import math
import threading

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from hftrain.data.examples import Examples
from hftrain.data.plan import padded_tokens
from hftrain.losses import sequence_to_sequence
from hftrain.metrics.intervals import ratio
from hftrain.train.evaluation import _share, batches_of, loss_and_interval, mean_loss, predict, prepare_ahead
from tests.train.exact_models import MODELS
from tests.train.exact_worker import collate, lengths_of, make_examples

EXAMPLES = make_examples(46)
MEASURED = Examples(EXAMPLES, lengths_of(EXAMPLES))
TASK = {"collate": collate, "loss": sequence_to_sequence()}


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MODELS["marian"](0.0).eval()


@pytest.fixture(scope="module")
def expected(model):
    """The mean over all target tokens, one example after the other."""
    losses = []
    for example in EXAMPLES:
        batch = collate([example])
        with torch.no_grad():
            logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
        chosen = logits.double().log_softmax(-1).gather(-1, batch["labels"][..., None])
        losses += (-chosen).flatten().tolist()
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_mean_loss_does_not_depend_on_the_batch_size(accelerator, model, expected, batch_size):
    assert mean_loss(accelerator, model, MEASURED, batch_size, **TASK) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_interval_of_the_loss_does_not_depend_on_the_batch_size(accelerator, model, expected, batch_size):
    loss, interval = loss_and_interval(accelerator, model, MEASURED, batch_size, **TASK)
    groups = [Examples(EXAMPLES[first::40], MEASURED.lengths[first::40]) for first in range(40)]
    counts = [TASK["loss"].count(collate(list(group.items))) for group in groups]
    sums = [
        mean_loss(accelerator, model, group, 1, **TASK) * count for group, count in zip(groups, counts, strict=True)
    ]
    assert loss == pytest.approx(expected, rel=1e-6) and interval == pytest.approx(ratio(sums, counts), rel=1e-5)
    few = Examples(EXAMPLES[:1], MEASURED.lengths[:1])
    assert loss_and_interval(accelerator, model, few, batch_size, **TASK)[1] is None


@pytest.mark.parametrize("by_tokens", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_predictions_are_in_the_order_of_the_examples(accelerator, batch_size, by_tokens):
    seen = []

    def generate(batch: dict[str, torch.Tensor]) -> list[list[int]]:
        seen.append(len(batch["input_ids"]))
        return [row[row > 0].tolist() for row in batch["input_ids"]]

    found = predict(accelerator, MEASURED, batch_size, collate=collate, generate=generate, by_tokens=by_tokens)
    assert found == [example["input_ids"] for example in EXAMPLES]
    assert sum(seen) == len(EXAMPLES)  # each once
    if batch_size == 1 or not by_tokens:
        assert max(seen) == min(batch_size, len(EXAMPLES))


def test_batches_of_tokens_hold_few_long_rows_and_many_short_ones():
    """No more memory than for rows of mean length, no more passes, and little padding."""
    lengths = np.clip(np.exp(np.random.default_rng(0).normal(3, 0.7, (2000, 1))).astype(int), 4, 400)
    by_rows, by_tokens = (
        [(len(rows), padded_tokens(lengths[rows])) for rows, _ in batches_of(lengths, 1, 32, by_tokens=kind)]
        for kind in (False, True)
    )
    (_, largest), (most, _), (least, _) = max(by_tokens, key=lambda pair: pair[1]), max(by_tokens), min(by_tokens)
    assert largest <= 32 * lengths.mean() < max(tokens for _, tokens in by_rows) / 4
    assert least < 8 and most > 64
    assert len(by_tokens) <= 1.05 * len(by_rows)
    assert sum(tokens for _, tokens in by_tokens) <= 1.05 * lengths.sum()


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("by_tokens", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_processes_get_equally_many_batches_and_each_example_counts_once(processes, batch_size, by_tokens):
    class Process:
        num_processes = processes

    shares = []
    for index in range(processes):
        process = Process()
        process.process_index = index
        batches = batches_of(MEASURED.lengths, processes, batch_size, by_tokens=by_tokens)
        shares.append(list(_share(process, batches)))
    assert len({len(share) for share in shares}) == 1  # else ZeRO-3 and FSDP would wait for ever
    counted = [i for share in shares for indices, weight in share for i in indices * weight]
    assert sorted(counted) == list(range(len(EXAMPLES)))
    assert sum(weight == 0 for share in shares for _, weight in share) < processes


def test_errors(accelerator, model):
    with pytest.raises(ValueError, match="there are no examples to evaluate"):
        mean_loss(accelerator, model, [], 4, **TASK)
    masked = [{"input_ids": [3, 4], "labels": [-100, -100]}]
    task = {**TASK, "collate": collate_masked}
    with pytest.raises(ValueError, match="the evaluation examples have no labels"):
        mean_loss(accelerator, model, masked, 4, **task)
    with pytest.raises(ValueError, match="generate returned 1 predictions for a batch of 7 examples"):
        predict(accelerator, MEASURED, 7, collate=collate, generate=lambda batch: [0])


def collate_masked(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """The decoder reads labels, and -100 is no token."""
    batch = collate([{**example, "labels": [0] * len(example["labels"])} for example in examples])
    return {**batch, "labels": torch.full_like(batch["labels"], -100)}


def test_out_of_memory_says_what_to_lower(accelerator, model):
    def generate(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match=r"in evaluation with .*input_ids \(4, .*Lower eval_batch_size"):
        predict(accelerator, MEASURED, 4, collate=collate, generate=generate)


def test_the_next_batch_is_made_while_one_is_used():
    """In another thread, in order, and an error comes where its batch would."""
    made = [threading.Event() for _ in range(3)]

    def prepare(number: int) -> str:
        made[number].set()
        if number == 2:
            raise ValueError("this row cannot be read")
        return f"batch {number}"

    batches = prepare_ahead(range(3), prepare)
    assert next(batches) == "batch 0" and made[1].wait(10)
    assert next(batches) == "batch 1" and made[2].wait(10)
    with pytest.raises(ValueError, match="this row cannot be read"):
        next(batches)
    made[1].clear()
    here = prepare_ahead(range(2), prepare, apart=False)
    assert next(here) == "batch 0" and not made[1].is_set()
