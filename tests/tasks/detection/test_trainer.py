"""Where transformers.Trainer is wrong: the set loss of a detector under accumulation.

Each micro-batch is divided by its own boxes, so objects of crowded images count less. Measured for images with 0, 8,
1 and 8 objects, one by one: 0.80 of the loss of all four for DETR, 0.75 for RT-DETR.
"""

import pytest
import transformers

from hftrain.tasks.detection import collator
from hftrain.tasks.detection.losses import run
from hftrain.tasks.detection.model import new_processor
from hftrain.vision.canvas import Canvas
from tests.tasks.detection.data import scene, write_images
from tests.tasks.detection.models import SIDE, make
from tests.tasks.detection.test_losses import step

COUNTS = [0, 8, 1, 8]  # objects of the images


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_accumulation_changes_the_loss_of_the_trainer_and_not_ours(kind, tmp_path):
    examples = []
    for name, count in zip(write_images(tmp_path, len(COUNTS)), COUNTS, strict=True):
        objects = [thing for number in range(9) for thing in scene(number)[1]][:count]
        labels, boxes = [label for label, _ in objects], [box for _, box in objects]
        examples.append({"image": str(tmp_path / name), "boxes": boxes, "labels": labels})
    collate = collator(Canvas(new_processor(kind), SIDE))

    class Trainer(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            return run(model, inputs).loss

    def first_loss(size):
        arguments = transformers.TrainingArguments(
            str(tmp_path / f"out-{size}"), max_steps=1, per_device_train_batch_size=size,
            gradient_accumulation_steps=len(examples) // size, logging_steps=1, save_strategy="no", report_to=[],
            use_cpu=True, remove_unused_columns=False, train_sampling_strategy="sequential", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(make(kind), arguments, collate, train_dataset=examples)
        trainer.train()
        return trainer.state.log_history[0]["loss"]

    whole, cut = first_loss(len(examples)), first_loss(1)
    ours, _ = step(kind, examples, [1, 2, 3])
    assert ours == pytest.approx(whole, rel=1e-4)  # the Trainer rounds what it logs
    assert abs(cut / whole - 1) > 0.02, f"{cut} beside {whole}"
