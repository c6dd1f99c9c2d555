"""Where transformers.Trainer is wrong: the loss of models that segment, under accumulation.

Each micro-batch is divided by its own learnt pixels or masks, so those of crowded images count less, and the Trainer
adds the losses up for some models. Measured for four images one by one: 4.0 of the loss of all four for SegFormer (the
sum, not the mean), 1.04 for Mask2Former.
"""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from hftrain.vision.masks import VOID
from tests.tasks.detection.data import SIZE, write_images
from tests.tasks.segmentation.data import labels_of
from tests.tasks.segmentation.models import make
from tests.tasks.segmentation.test_losses import batch_of, step

VOID_ROWS = (0, 23, 4, 22)  # of the images
RATIOS = {"segformer": 2, "mask2former": 0.02}  # how far the Trainer's loss is off at least


@pytest.mark.parametrize("kind", RATIOS)
def test_accumulation_changes_the_loss_of_the_trainer_and_not_ours(kind, tmp_path):
    examples = []
    for number, name in enumerate(write_images(tmp_path, len(VOID_ROWS))):
        mask = labels_of(number)
        mask[: VOID_ROWS[number]] = VOID
        Image.fromarray(mask).save(tmp_path / f"mask-{name}")
        values = [value for value in np.unique(mask).tolist() if value != VOID]
        examples.append(
            {
                "image": str(tmp_path / name), "mask": str(tmp_path / f"mask-{name}"), "width": SIZE[0],
                "height": SIZE[1], "values": values, "labels": values, "counts": [""] * len(values),
                "things": [False] * len(values), "points": number,
            }
        )  # fmt: skip

    def inputs(rows):
        batch = batch_of(kind, rows)
        if "labels" in batch:
            return {name: batch[name] for name in ("pixel_values", "labels")}
        counts = batch["objects"].tolist()
        masks, labels = (batch[name].split(counts) for name in ("masks", "class_labels"))
        return {
            "pixel_values": batch["pixel_values"],
            "mask_labels": [mask.float() for mask in masks],
            "class_labels": [*labels],
        }

    def first_loss(size):
        arguments = transformers.TrainingArguments(
            str(tmp_path / f"out-{size}"), max_steps=1, per_device_train_batch_size=size,
            gradient_accumulation_steps=len(examples) // size, logging_steps=1, save_strategy="no", report_to=[],
            use_cpu=True, remove_unused_columns=False, train_sampling_strategy="sequential", disable_tqdm=True,
        )  # fmt: skip
        trainer = transformers.Trainer(make(kind), arguments, inputs, train_dataset=examples)
        torch.manual_seed(0)
        trainer.train()
        return trainer.state.log_history[0]["loss"]

    whole, cut = first_loss(len(examples)), first_loss(1)
    ours = [step(kind, examples, cuts)[0] for cuts in ([], [1, 2, 3])]
    assert ours[0] == pytest.approx(ours[1], rel=1e-5)
    assert abs(cut / whole - 1) > RATIOS[kind], f"{cut} beside {whole}"
