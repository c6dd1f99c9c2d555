"""The loss of each kind of model: its own on a whole batch, and the same however the batch is cut."""

import numpy as np
import pytest
import torch

from hftrain.tasks.segmentation import SegmentLoss, collator
from hftrain.tasks.segmentation.config import SETS
from hftrain.tasks.segmentation.losses import dice
from hftrain.tasks.segmentation.model import new_processor
from hftrain.vision.canvas import Canvas
from hftrain.vision.masks import VOID
from tests.tasks.detection.data import SIZE, write_images
from tests.tasks.segmentation.data import labels_of
from tests.tasks.segmentation.models import SHAPES, SIDE, make

EMPTY = 3  # the image of which no pixel is learnt


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    lines = []
    for number, name in enumerate(write_images(folder, 6)):
        mask = labels_of(number)
        mask[: number * 2] = VOID  # as many void pixels in no two images
        Image.fromarray(mask).save(folder / f"mask-{name}")
        values = [] if number == EMPTY else [value for value in np.unique(mask).tolist() if value != VOID]
        lines.append(
            {
                "image": str(folder / name), "mask": str(folder / f"mask-{name}"), "width": SIZE[0], "height": SIZE[1],
                "values": values, "labels": values, "counts": [""] * len(values), "things": [False] * len(values),
                "points": number,
            }
        )  # fmt: skip
    return lines


def batch_of(kind, examples):
    collate = collator(Canvas(new_processor(kind), SIDE), "semantic", kind in SETS)
    batch = collate(examples)
    if "points" in batch:
        batch["points"] = torch.tensor([example["points"] for example in examples])
    return batch


def step(kind, examples, cuts, dice_weight=0.0):
    """The loss of a step in micro-batches, and its gradients."""
    model = make(kind).train()
    loss = SegmentLoss(model, dice_weight)
    batches = [batch_of(kind, [examples[i] for i in part]) for part in np.split(np.arange(len(examples)), cuts)]
    items = np.sum([loss.items(batch) for batch in batches], axis=0).tolist()
    loss.whole = (float(len(examples)), *items)
    value = 0.0
    for batch in batches:
        summed = loss.summed(model, batch) / len(examples)
        summed.backward()
        value += float(summed.detach())
    return value, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("cuts", [[2], [3, 4], [1, 2, 3, 4, 5]])
def test_any_cut_gives_the_same_loss_and_gradients(kind, cuts, examples):
    whole, gradient = step(kind, examples, [])
    value, other = step(kind, examples, cuts)
    assert value == pytest.approx(whole, rel=1e-5)
    assert float((other - gradient).norm()) <= 1e-5 * float(gradient.norm())


@pytest.mark.parametrize("kind", ["segformer", "upernet"])
def test_a_whole_batch_has_the_loss_of_the_model(kind, examples):
    value, _ = step(kind, examples, [])
    batch = batch_of(kind, examples)
    output = make(kind).train()(pixel_values=batch["pixel_values"], labels=batch["labels"])
    assert value == pytest.approx(float(output.loss.detach()), rel=1e-5)


@pytest.mark.parametrize("kind", ["mask2former", "eomt"])
def test_one_image_has_the_loss_of_the_model(kind, examples):
    """With the same points; of several images the model draws all points at once."""
    value, _ = step(kind, examples[:1], [])
    batch, model = batch_of(kind, examples[:1]), make(kind).train()
    torch.manual_seed(0)
    output = model(
        pixel_values=batch["pixel_values"],
        mask_labels=[batch["masks"].float()],
        class_labels=[batch["class_labels"]],
    )
    assert value == pytest.approx(float(output.loss.detach()), rel=0.05)  # the layers share no points there


def test_a_step_without_a_learnt_pixel_is_zero(examples):
    value, gradient = step("segformer", [examples[EMPTY]] * 2, [1])
    assert value == 0 and not gradient.any()


def test_the_dice_loss_is_that_of_its_definition(examples):
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 6, 6))
    labels[0, 0] = VOID
    logits = torch.randn(2, 4, 6, 6)
    total = 0.0
    for one, truth in zip(logits.softmax(1), labels, strict=True):
        known, values = truth != VOID, []
        for label in truth[known].unique():
            shares, inside = one[label][known], (truth[known] == label).float()
            values.append(1 - 2 * (shares * inside).sum() / (shares.sum() + inside.sum()))
        total += float(torch.stack(values).mean())
    assert float(dice(logits, labels)) == pytest.approx(total, rel=1e-5)
    whole, gradient = step("segformer", examples, [], dice_weight=1.0)
    value, other = step("segformer", examples, [2, 3], dice_weight=1.0)
    assert value == pytest.approx(whole, rel=1e-5) and whole != step("segformer", examples, [])[0]
    assert float((other - gradient).norm()) <= 1e-5 * float(gradient.norm())


def test_points_depend_on_the_example_alone(examples):
    """Random numbers drawn before do not change the loss, and the loss draws none of theirs."""
    torch.manual_seed(1)
    first, _ = step("mask2former", examples[:2], [])
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    model = make("mask2former")
    loss = SegmentLoss(model)
    torch.random.set_rng_state(before)
    loss.run(model.eval(), batch_of("mask2former", examples[:2]))
    assert torch.equal(before, torch.random.get_rng_state())
    assert step("mask2former", examples[:2], [])[0] == first
