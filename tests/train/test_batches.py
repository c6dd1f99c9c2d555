"""A loss that depends on how a step is cut into micro-batches is named when `fit` starts; the recipes' own are not."""

import json
import logging
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification, FNetConfig, FNetForSequenceClassification

from hftrain import text
from hftrain.config import TrainConfig
from hftrain.data.examples import Examples
from hftrain.labels.losses import count_examples
from hftrain.losses import Loss, causal_language_model, sequence_to_sequence
from hftrain.train.loop import fit, start
from hftrain.train.trials import check_batches, chunk_loss
from tests.train.exact_models import MODELS
from tests.train.exact_worker import collate, collate_causal, lengths_of, make_examples

SHAPE = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
ROWS = [{"input_ids": [3 + (i * j) % 40 for j in range(3 + i % 5)], "label": i % 2} for i in range(12)]
MEASURED = Examples(ROWS, [len(row["input_ids"]) for row in ROWS])


def bert():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SHAPE, num_attention_heads=2))


def collate_rows(rows):
    ids = text.pad([row["input_ids"] for row in rows], 0)
    mask = text.pad([[1] * len(row["input_ids"]) for row in rows], 0)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["label"] for row in rows])}


def logits(model, batch):
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def classes(model, batch):
    return F.cross_entropy(logits(model, batch), batch["labels"], reduction="sum")


def in_batch(model, batch):
    """InfoNCE: the other rows of the batch are a row's negatives."""
    found = F.normalize(logits(model, batch), dim=-1)
    return F.cross_entropy(found @ found.T, torch.arange(len(found)), reduction="sum")


def mean(model, batch):
    return F.cross_entropy(logits(model, batch), batch["labels"])


def notes_of(summed, collate=collate_rows, count=count_examples, model=None, **task):
    loss = Loss(summed, count)
    return check_batches(model or bert(), MEASURED, TrainConfig(), collate=collate, loss=loss, **task)


def test_a_loss_that_looks_across_the_batch_is_named(caplog):
    with caplog.at_level(logging.WARNING):
        (note,) = notes_of(in_batch)
    assert "the loss of 3 examples together is" in note and "it combines the examples of a micro-batch" in note
    assert "before_step" in note and note in caplog.text
    assert notes_of(in_batch, whole_step=True) == []  # it has seen to it


def test_a_mean_and_a_wrong_count_are_named():
    (note,) = notes_of(mean)
    assert "it is a mean, and fit would divide by count again. Return the sum over the items" in note
    (note,) = notes_of(classes, count=lambda batch: batch["input_ids"].numel())  # padding counted too
    assert note.startswith("count gives 15 for 3 examples together, 12 for each alone")


def test_randomness_that_follows_the_micro_batch_is_named():
    def noisy(rows):
        return collate_rows([{**row, "label": random.randrange(2)} for row in rows])

    (note,) = notes_of(classes, collate=noisy)
    assert note.startswith("collate or loss is random for each micro-batch") and "augment" in note
    assert notes_of(classes, augment=lambda row: {**row, "label": random.randrange(2)}) == []


def test_a_loss_that_cannot_be_tried_says_so():
    def broken(model, batch):
        raise RuntimeError("needs the second GPU")

    (note,) = notes_of(broken)
    assert "could not be tried (RuntimeError: needs the second GPU)" in note


def test_a_loss_that_needs_the_model_itself_is_tried_on_it():
    model = bert()

    def own(module, batch):
        if module is not model:
            raise ValueError("not this one")
        return in_batch(module, batch)

    assert "combines the examples" in notes_of(own, model=model)[0] and notes_of(classes, model=model) == []
    assert "combines the examples" in notes_of(lambda m, b: in_batch(lambda **x: m(x), b), model=Plain())[0]


class Plain(torch.nn.Module):
    """A module that is not of transformers."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 4)

    def forward(self, batch):
        mask = batch["attention_mask"][:, :, None]
        return type("Output", (), {"logits": (self.table(batch["input_ids"]) * mask).sum(1)})


@pytest.mark.parametrize("name", MODELS)
def test_the_losses_of_the_recipes_pass(name):
    torch.manual_seed(0)
    examples, model, causal = make_examples(20), MODELS[name](0.1), name == "llama"
    for chunked in (False, True):
        if chunked and not chunk_loss(model):
            continue
        loss = (causal_language_model if causal else sequence_to_sequence)(0.1, chunked=chunked)
        task = {"loss": loss}
        task["collate"] = collate_causal if causal else collate
        measured = Examples(examples, lengths_of(examples)[:, : 1 if causal else 2])
        assert check_batches(model, measured, TrainConfig(), **task) == []


def train(folder, model, summed=classes, **settings):
    config = TrainConfig(
        output_dir=str(folder), max_steps=4, global_batch_size=6, logging_steps=1, save_steps=0, eval_steps=0,
        learning_rate=1e-2, load_best_model_at_end=False, **settings,
    )  # fmt: skip
    fit(start(config), model, MEASURED, config, collate=collate_rows, loss=Loss(summed, count_examples))
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(row["loss"], row["grad_norm"]) for row in lines if "loss" in row]


def fnet():
    torch.manual_seed(0)
    return FNetForSequenceClassification(FNetConfig(**SHAPE, hidden_dropout_prob=0.0))


def test_equal_lengths_keep_a_model_exact_that_padding_changes(tmp_path):
    """FNet mixes padding into a row: 4 steps of 6, cut in threes, twos and ones."""
    runs = {
        size: train(tmp_path / str(size), fnet(), micro_batch_size=size, equal_length_micro_batches=True)
        for size in (1, 2, 6)
    }
    for size in (2, 6):
        np.testing.assert_allclose(runs[size], runs[1], rtol=1e-5)
    padded = train(tmp_path / "padded", fnet(), micro_batch_size=6)
    assert abs(padded[0][0] / runs[1][0][0] - 1) > 1e-5
    seen = json.loads((tmp_path / "padded" / "inspection.json").read_text())["micro-batches"]  # for report and card
    assert seen.startswith("FNetForSequenceClassification changes the results of a row beside longer rows")
    assert "equal_length_micro_batches=true" in seen
    seen = json.loads((tmp_path / "6" / "inspection.json").read_text())["micro-batches"]
    assert "Scores depend on eval_batch_size" in seen and "micro_batch_size" not in seen


def test_fit_goes_on_with_a_loss_across_the_batch(tmp_path):
    train(tmp_path, bert(), in_batch)
    assert "combines the examples" in json.loads((tmp_path / "inspection.json").read_text())["micro-batches"]
    config = TrainConfig(output_dir=str(tmp_path / "no"), equal_length_micro_batches=True)
    with pytest.raises(ValueError, match="equal_length_micro_batches needs the lengths"):
        fit(start(config), bert(), ROWS, config, collate=collate_rows, loss=Loss(classes, count_examples))
