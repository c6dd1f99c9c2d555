"""COCO's scores of boxes: as pycocotools gives them for the same files, on random and on adversarial input."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hftrain.metrics import detection
from hftrain.metrics.detection import STATS, Boxes, measure
from hftrain.report.scores import nothing_found

pytestmark = pytest.mark.unit
CLASSES = 3


def image(draw, truth=4, found=6, ties=False, crowd=False, near=True):
    """(boxes, labels, crowd, areas, detections) of an image; detections are near true boxes or anywhere."""
    corners = draw.uniform(0, 200, (truth, 2))
    boxes = np.concatenate([corners, corners + draw.uniform(5, 150, (truth, 2))], axis=1)
    labels = draw.integers(0, CLASSES, truth)
    lines = []
    for number in range(found):
        if near and truth:
            box = boxes[number % truth] + draw.normal(0, 6, 4)
            label = labels[number % truth] if draw.random() < 0.8 else draw.integers(CLASSES)
        else:
            left, top = draw.uniform(0, 200, 2)
            box, label = np.array([left, top, left + 40, top + 30]), draw.integers(CLASSES)
        score = draw.integers(1, 4) / 4 if ties else draw.random()
        lines.append([score, label, *np.sort(box.reshape(2, 2), axis=0).ravel()])
    crowds = [bool(crowd and number % 2) for number in range(truth)]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) if truth else np.zeros(0)
    return boxes, labels, crowds, areas, np.array(lines).reshape(-1, 6)


CASES = {
    "random": lambda draw: [image(draw) for _ in range(20)],
    "crowds": lambda draw: [image(draw, crowd=True) for _ in range(10)],
    "ties": lambda draw: [image(draw, ties=True) for _ in range(10)],
    "no detection": lambda draw: [image(draw, found=0) for _ in range(3)],
    "no truth": lambda draw: [image(draw, truth=0) for _ in range(3)],
    "empty images": lambda draw: [
        image(draw),
        image(draw, truth=0, found=0),
        image(draw, truth=0),
        image(draw, found=0),
    ],
    "far away": lambda draw: [image(draw, near=False) for _ in range(5)],
    "more than a hundred": lambda draw: [image(draw, truth=30, found=150)],
    "one class": lambda draw: [
        (boxes, labels * 0, crowd, areas, found * [1, 0, 1, 1, 1, 1])
        for boxes, labels, crowd, areas, found in (image(draw) for _ in range(5))
    ],
}


def by_files(images, folder):
    """pycocotools on files, as its users have them; [] of no detection is nothing that it loads."""
    truth = {"images": [], "categories": [{"id": number} for number in range(CLASSES)], "annotations": []}
    results = []
    for number, (boxes, labels, crowds, areas, found) in enumerate(images, 1):
        truth["images"].append({"id": number})
        for box, label, crowd, area in zip(boxes, labels, crowds, areas, strict=True):
            sides = [*box[:2], *(box[2:] - box[:2])]
            one = {"id": len(truth["annotations"]) + 1, "image_id": number, "category_id": int(label), "bbox": sides}
            truth["annotations"].append({**one, "area": area, "iscrowd": int(crowd)})
        for score, label, *box in found:
            sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": number, "category_id": int(label), "bbox": sides, "score": score})
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(folder / "truth.json")
        evaluation = COCOeval(reference, reference.loadRes(str(folder / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def measured(images):
    boxes = Boxes()
    for one in images:
        boxes.add(*one)
    return measure(boxes, CLASSES)


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_pycocotools(name, tmp_path):
    images = CASES[name](np.random.default_rng(1))
    ours = measured(images)
    if not any(len(one[-1]) for one in images):
        assert ours.numbers["map"] == ours.numbers["ar_100"] == 0
        return
    evaluation = by_files(images, tmp_path)
    for key, place in STATS.items():
        wanted = evaluation.stats[place]
        assert ours.numbers[key] == pytest.approx(wanted, abs=1e-6) or (wanted == -1 and np.isnan(ours.numbers[key])), (
            key
        )
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    for label in range(CLASSES):
        wanted = precision[:, :, label].mean()
        ap = ours.average_precisions[label]
        assert ap == pytest.approx(wanted, abs=1e-6) or (wanted == -1 and np.isnan(ap))


def test_the_order_of_images_changes_nothing():
    images = CASES["random"](np.random.default_rng(2))
    assert measured(images).numbers == pytest.approx(measured(images[::-1]).numbers, abs=1e-12, nan_ok=True)


def test_a_score_by_hand():
    """Two objects of a class; the best detection finds one, the second nothing, the third the other: precision 1 up to
    the recall 0.5, then 2/3."""
    boxes = np.array([[0, 0, 50, 50], [100, 100, 150, 150]], float)
    found = np.array([[0.9, 0, 0, 0, 50, 50], [0.8, 0, 300, 0, 350, 50], [0.7, 0, 100, 100, 150, 150]])
    scores = measured([(boxes, [0, 0], [False, False], [2500, 2500], found)])
    assert scores.numbers["map_50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert scores.numbers["map"] == pytest.approx(scores.numbers["map_50"]) and scores.numbers["ar_100"] == 1
    assert np.isnan(scores.average_precisions[1:]).all()


@pytest.mark.parametrize("name", ["random", "crowds", "ties", "empty images"])
def test_intervals_are_those_of_images_drawn_again(name, monkeypatch):
    """Drawn several times, an image counts as several images. (Equal scores are then in another order.)"""
    draw = np.random.default_rng(1)
    images = CASES[name](draw)
    seen = []
    monkeypatch.setattr(detection, "bootstrap", lambda compute, size: seen.append((compute, size)) or {"map": (0, 1)})
    assert measure(added(images), CLASSES, report=True).intervals == {"map": (0, 1)}
    ((compute, size),) = seen
    assert size == len(images)
    again = [] if name == "ties" else [draw.integers(size, size=size) for _ in range(3)]
    for drawn in (np.arange(size), *again):
        wanted = measure(added([images[place] for place in drawn]), CLASSES).numbers
        found = compute(drawn)
        assert found == pytest.approx({key: wanted[key] for key in found}, abs=1e-9)
        assert found or np.isnan(wanted["map"])


def test_a_model_that_finds_nothing_is_named():
    scores = measure(added(CASES["no detection"](np.random.default_rng(0))), CLASSES, report=True)
    found = nothing_found("map", scores.numbers, scores.intervals)
    assert (
        found["baseline"] == {"test_map": 0.0} and "map 0.0 % is no better than finding nothing" in found["remarks"][0]
    )
    better = nothing_found("map", {"map": 0.4}, {"map": (0.3, 0.5)})
    assert better["remarks"] == [] and better["intervals"] == {"test_map": (0.3, 0.5)}


def added(images):
    boxes = Boxes()
    for one in images:
        boxes.add(*one)
    return boxes
