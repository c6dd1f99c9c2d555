"""mIoU and PQ equal references that are written from their definitions, pixel by pixel."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from hftrain.metrics.segmentation import Confusion, Quality, usual_class

pytestmark = pytest.mark.unit


def test_ious_are_those_of_sklearn():
    draw = np.random.default_rng(0)
    confusion, true, predicted = Confusion(5), [], []
    for _ in range(6):
        truth, guess = draw.integers(-1, 4, (20, 30)), draw.integers(0, 4, (20, 30))  # class 4 never occurs
        confusion.add(truth, guess)
        true.append(truth[truth >= 0])
        predicted.append(guess[truth >= 0])
    flat, other = np.concatenate(true), np.concatenate(predicted)
    numbers = confusion.numbers()
    assert numbers["mean_iou"] == pytest.approx(jaccard_score(flat, other, average="macro"), abs=1e-6)
    assert numbers["pixel_accuracy"] == pytest.approx(accuracy_score(flat, other), abs=1e-6)
    assert numbers["mean_accuracy"] == pytest.approx(recall_score(flat, other, average="macro"), abs=1e-6)
    assert np.isnan(confusion.ious[4])


def test_a_class_that_is_only_predicted_counts_as_zero():
    confusion = Confusion(3)
    confusion.add(np.zeros((2, 2), int), np.array([[0, 0], [0, 2]]))
    assert confusion.ious.tolist() == pytest.approx([0.75, np.nan, 0], nan_ok=True)
    assert confusion.numbers()["mean_iou"] == pytest.approx(0.375)


def test_nothing_but_void():
    confusion = Confusion(3)
    confusion.add(np.full((2, 2), -1), np.zeros((2, 2), int))
    assert all(np.isnan(value) for value in confusion.numbers().values())


def reference(images, classes):
    """PQ of each class, (K, 3), by sets of pixels, as panopticapi's pq_compute defines it."""
    iou, matched, false, missed = np.zeros(classes), np.zeros(classes), np.zeros(classes), np.zeros(classes)
    for truth, labels, crowds, predicted, guesses in images:
        void = truth == 0
        true = {i: truth == i for i in range(1, len(labels) + 1)}
        made = {j: predicted == j for j in range(1, len(guesses) + 1)}
        pairs = set()
        for i, j in itertools.product(true, made):
            if crowds[i - 1] or labels[i - 1] != guesses[j - 1] or not true[i].any() or not made[j].any():
                continue
            both = (true[i] & made[j]).sum()
            share = both / (true[i].sum() + made[j].sum() - both - (void & made[j]).sum())
            if share > 0.5:
                pairs.add((i, j))
                iou[labels[i - 1]] += share
                matched[labels[i - 1]] += 1
        for i in true:
            if true[i].any() and not crowds[i - 1] and i not in {pair[0] for pair in pairs}:
                missed[labels[i - 1]] += 1
        for j in made:
            if not made[j].any() or j in {pair[1] for pair in pairs}:
                continue
            ignored = (void & made[j]).sum()
            crowd = [i for i in true if crowds[i - 1] and labels[i - 1] == guesses[j - 1]]
            ignored += sum((true[i] & made[j]).sum() for i in crowd)
            if ignored / made[j].sum() <= 0.5:
                false[guesses[j - 1]] += 1
    total = matched + false / 2 + missed / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        quality = np.where(matched > 0, iou / matched, 0)
        return np.where((total > 0)[:, None], np.stack([iou / total, quality, matched / total], axis=1), np.nan)


def random_image(draw, classes):
    """Truth and a prediction near it: blocks, of which some change class, place or number; some void, some crowds."""
    truth, predicted = np.zeros((24, 24), int), np.zeros((24, 24), int)
    count = int(draw.integers(0, 6))
    labels = draw.integers(0, classes, count).tolist()
    crowds, taken = [], set()
    for number, label in enumerate(labels, 1):
        crowds.append(bool(draw.random() < 0.2) and label not in taken)  # one crowd of a class at most, as in COCO
        taken |= {label} if crowds[-1] else set()
        top, left, side = (int(draw.integers(low, high)) for low, high in ((0, 16), (0, 16), (3, 12)))
        truth[top : top + side, left : left + side] = number
        top, left = (max(0, value + int(draw.integers(-3, 4))) for value in (top, left))
        predicted[top : top + side, left : left + side] = number
    guesses = [int(draw.integers(0, classes)) if draw.random() < 0.2 else label for label in labels]
    return truth, labels, crowds, predicted, guesses


def test_panoptic_quality_is_that_of_the_definition():
    draw = np.random.default_rng(0)
    images = [random_image(draw, 4) for _ in range(200)]
    quality = Quality(5)
    for image in images:
        quality.add(*image)
    wanted = reference(images, 5)
    np.testing.assert_allclose(quality.by_class, wanted, atol=1e-6)
    assert quality.matched.sum() > 50 and quality.false.sum() > 50 and quality.missed.sum() > 50
    numbers = quality.numbers([0, 1])
    assert numbers["pq"] == pytest.approx(np.nanmean(wanted[:, 0]), abs=1e-6)
    assert numbers["pq_things"] == pytest.approx(np.nanmean(wanted[:2, 0]), abs=1e-6)


EMPTY = np.zeros((4, 4), int)
FULL = EMPTY + 1
ADVERSARIAL = {
    "no prediction": (FULL, [0], [False], EMPTY, []),
    "no truth": (EMPTY, [], [], FULL, [0]),
    "nothing at all": (EMPTY, [], [], EMPTY, []),
    "all a crowd": (FULL, [0], [True], FULL, [0]),
    "a crowd of another class": (FULL, [1], [True], FULL, [0]),
    "exactly half": (np.repeat([[1, 1, 2, 2]], 4, 0), [0, 1], [False] * 2, FULL, [0]),
    "perfect": (FULL, [0], [False], FULL, [0]),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_panoptic_quality_of_adversarial_images(name):
    quality = Quality(2)
    quality.add(*ADVERSARIAL[name])
    np.testing.assert_allclose(quality.by_class, reference([ADVERSARIAL[name]], 2), atol=1e-6)


def test_sums_of_images_are_those_of_all():
    draw = np.random.default_rng(0)
    images = [random_image(draw, 4) for _ in range(20)]
    whole, joined = Quality(5), Quality(5)
    for image in images:
        whole.add(*image)
        alone = Quality(5)
        alone.add(*image)
        joined.add_sums(alone.sums)
    np.testing.assert_allclose(joined.by_class, whole.by_class)


def test_the_usual_class_is_a_guess_for_every_pixel():
    truth, guessed = np.array([[0, 0, 1], [2, 1, -1]]), Confusion(4)
    guessed.add(truth, np.zeros_like(truth) + 1)
    asked = Confusion(4)
    asked.add(truth, truth)
    assert usual_class(np.array([5, 9, 1, 0]), asked.sums) == guessed.numbers()
