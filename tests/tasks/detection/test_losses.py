"""The set loss of each kind of model: its own on a whole batch, and the same however the batch is cut."""

import numpy as np
import pytest
import torch
import transformers

from hftrain.tasks.detection import DetectionConfig, SetLoss, collator
from hftrain.tasks.detection.losses import run, say_what_depends_on_the_cut
from hftrain.tasks.detection.model import SMALL, SMALL_SHAPES, new_processor, new_shape
from hftrain.tasks.detection.scoring import detections
from hftrain.vision.canvas import Canvas
from tests.tasks.detection.data import scene, write_images
from tests.tasks.detection.models import SIDE, make

KINDS = ["detr", "yolos", "conditional_detr", "deformable_detr", "rt_detr", "rt_detr_v2", "lw_detr", "rf_detr"]
EMPTY = 3  # the image without objects


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    lines = []
    for number, name in enumerate(write_images(folder, 8)):
        objects = [] if number == EMPTY else scene(number)[1]
        labels = [label for label, _ in objects]
        lines.append({"image": str(folder / name), "boxes": [box for _, box in objects], "labels": labels})
    return lines


def step(kind, examples, cuts, loss=None):
    """The loss of a step in micro-batches, and its gradients."""
    model = make(kind).train()
    collate, loss = collator(Canvas(new_processor(kind), SIDE)), SetLoss(model.config)
    loss.see(len(examples), sum(len(example["labels"]) for example in examples))
    value = 0.0
    for cut in np.split(np.arange(len(examples)), cuts):
        summed = loss.summed(model, collate([examples[place] for place in cut])) / len(examples)
        summed.backward()
        value += float(summed.detach())
    return value, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", SMALL_SHAPES)
def test_a_new_small_model_reads_a_picture(kind):
    shape = new_shape(DetectionConfig(dataset_name="unused", model=kind), SMALL)
    model = transformers.AutoModelForObjectDetection.from_config(shape).eval()
    assert model(torch.zeros(1, 3, 64, 64)).pred_boxes.shape[0] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_batch_has_the_loss_of_the_model(kind, examples):
    value, _ = step(kind, examples, [])
    model = make(kind).train()
    batch = collator(Canvas(new_processor(kind), SIDE))(examples)
    assert value == pytest.approx(float(run(model, batch).loss.detach()), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [[3], [4, 5], [3, 4]])  # [3, 4]: the image without objects is alone
def test_any_cut_gives_the_same_loss_and_gradients(kind, cuts, examples):
    whole, gradient = step(kind, examples, [])
    value, other = step(kind, examples, cuts)
    assert value == pytest.approx(whole, rel=1e-5)
    assert float((other - gradient).norm()) <= 1e-5 * float(gradient.norm())


@pytest.mark.parametrize("kind", ["d_fine", "deimv2"])
def test_what_compares_boxes_depends_on_the_cut_a_little(kind, examples):
    """As the log says at the start of a run: a part of the loss is no sum over boxes."""
    model = make(kind)
    assert "compares the boxes of a micro-batch with each other" in "".join(say_what_depends_on_the_cut(model))
    whole, _ = step(kind, examples, [])
    batch = collator(Canvas(new_processor(kind), SIDE))(examples)
    assert whole == pytest.approx(float(run(model.train(), batch).loss.detach()), rel=1e-5)
    assert step(kind, examples, [4, 5])[0] == pytest.approx(whole, rel=0.01)


def test_images_without_objects_alone_are_learnt_too(examples):
    for kind in KINDS:
        value, gradient = step(kind, [examples[EMPTY]] * 2, [])
        assert value > 0 and gradient.isfinite().all()
        again, other = step(kind, [examples[EMPTY]] * 2, [1])
        assert again == pytest.approx(value, rel=1e-5)
        assert float((other - gradient).norm()) <= 1e-5 * float(gradient.norm())


@pytest.mark.parametrize(("kind", "name"), [("detr", "DetrImageProcessorPil"), ("rt_detr", "RTDetrImageProcessorPil")])
def test_detections_are_those_of_the_reference(kind, name, examples):
    model = make(kind).eval()
    batch = collator(Canvas(new_processor(kind), SIDE))(examples)
    with torch.no_grad():
        output = run(model, batch)
    ours = detections(model.config, output)
    processor = getattr(transformers, name)()
    theirs = processor.post_process_object_detection(output, threshold=0.0, target_sizes=[(1, 1)] * len(ours))
    for mine, wanted in zip(ours, theirs, strict=True):
        scores, order = wanted["scores"].sort(descending=True, stable=True)
        count = min(len(mine), len(scores))
        np.testing.assert_allclose(mine[:count, 0], scores[:count], atol=1e-6)
        np.testing.assert_array_equal(mine[:count, 1], wanted["labels"][order][:count])
        np.testing.assert_allclose(mine[:count, 2:], wanted["boxes"][order][:count], atol=1e-5)
