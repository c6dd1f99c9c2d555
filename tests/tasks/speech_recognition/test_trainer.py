"""Where transformers.Trainer is wrong: the loss of models that hear, under accumulation.

The Trainer takes these models for ones that divide by the items of the whole step, which they do not, and adds up the
losses of micro-batches. Measured for six recordings, two at a time beside all at once: 3.00 times the loss for Whisper
and for CTC whose utterances are averaged (`ctc_loss_reduction` "mean"). CTC's sum ("sum") is right, but six times that
of an utterance: it grows with the batch.
"""

import pytest
import torch
import transformers

from hftrain.audio import load_speech
from hftrain.tasks.speech_recognition import (
    TranscribeConfig,
    collator,
    load_listener,
    load_recogniser,
    make_examples,
    recognition,
)
from tests.tasks.speaking.data import write
from tests.tasks.speech_recognition.models import ctc_folder, whisper_folder

CUTS = {"whisper": 2, "mean": 2, "sum": 1}  # recordings of a micro-batch, of six
FACTORS = {"whisper": 3, "mean": 3, "sum": 1}  # the Trainer's loss / that of all at once


@pytest.mark.parametrize("kind", CUTS)
def test_accumulation_changes_the_loss_of_the_trainer_and_not_ours(kind, tmp_path):
    folder = tmp_path / "model"
    if kind == "whisper":
        whisper_folder(folder)
    else:
        ctc_folder(folder, ctc_loss_reduction=kind)
    data = write(tmp_path / "clips", 6)
    config = TranscribeConfig(output_dir=str(tmp_path), model_name_or_path=str(folder), **data)
    rows = load_speech(config, 0)
    listener = load_listener(config, rows)
    made, examples = make_examples(rows, listener, load_recogniser(config, listener), config)
    items, collate = examples["train"][:], collator(listener)
    assert len(made["train"]) == 6

    def inputs(rows):
        batch = collate(rows)
        batch.pop("lengths", None)
        return batch

    def first_loss(size: int) -> float:
        arguments = transformers.TrainingArguments(
            str(tmp_path / f"out-{size}"), max_steps=1, per_device_train_batch_size=size,
            gradient_accumulation_steps=6 // size, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True,
            remove_unused_columns=False, train_sampling_strategy="sequential", disable_tqdm=True,
        )  # fmt: skip
        trainer = transformers.Trainer(load_recogniser(config, listener), arguments, inputs, train_dataset=items)
        trainer.train()
        return float(trainer.state.log_history[0]["loss"])

    def ours(size: int) -> float:
        model = load_recogniser(config, listener).train()
        loss, parts = recognition(model), [collate(items[start : start + size]) for start in range(0, 6, size)]
        with torch.no_grad():
            return float(sum(loss.summed(model, part) for part in parts)) / sum(loss.count(part) for part in parts)

    whole, cut = first_loss(6), first_loss(CUTS[kind])
    assert ours(6) == pytest.approx(ours(CUTS[kind]), rel=1e-5)
    assert cut / whole == pytest.approx(FACTORS[kind], rel=1e-2)
    if kind != "mean":  # the loss of an utterance there is divided by its length
        assert whole / ours(6) == pytest.approx(6 if kind == "sum" else 1, rel=1e-5)
