"""Augmentation: seeded by NumPy alone, within its bounds, and leaving pictures that are as described."""

import numpy as np
import pytest
import torch
from PIL import Image

from hftrain.vision import Augmentation, Pixels
from hftrain.vision.augment import erase, mix, paste, random_part
from hftrain.vision.operations import OPERATIONS, identity

pytestmark = pytest.mark.unit

PIXELS = Pixels({"size": {"height": 16, "width": 16}})


def picture(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("policy", ["none", "trivial", "randaugment"])
def test_the_seed_decides(policy):
    vary = Augmentation(0.3, 0.5, 0.4, policy, 0.5)

    def made(seed: int) -> torch.Tensor:
        np.random.seed(seed)
        return vary(picture(), PIXELS)

    assert torch.equal(made(1), made(1)) and made(1).shape == (3, 16, 16)
    assert not torch.equal(made(1), made(2))


def test_without_augmentation_it_is_as_in_evaluation():
    assert torch.equal(Augmentation()(picture(), PIXELS), PIXELS.tensor(PIXELS.fit(picture())))


def test_a_flip_exchanges_left_and_right():
    plain = PIXELS.tensor(PIXELS.fit(picture()))
    assert torch.equal(Augmentation(flip=1.0)(picture(), PIXELS), plain.flip(-1))


@pytest.mark.parametrize("size", [(40, 30), (3, 400), (1, 1)])
def test_parts_lie_inside_and_are_large_enough(size):
    np.random.seed(0)
    image = picture(*size)
    for _ in range(200):
        left, top, right, bottom = random_part(image, 0.25)
        assert 0 <= left < right <= image.width and 0 <= top < bottom <= image.height
        if size == (40, 30):
            assert (right - left) * (bottom - top) >= 0.22 * image.width * image.height
            assert 0.7 < (right - left) / (bottom - top) < 1.4


def test_operations_change_the_picture_with_their_strength():
    image = picture()
    for operation in OPERATIONS:
        changed = operation(image, 0.7)
        assert changed.size == image.size and changed.mode == "RGB"
        assert (np.asarray(changed) == np.asarray(image)).all() == (operation is identity), operation.__name__
    assert len(OPERATIONS) == 14


def test_erasing_leaves_the_rest_as_it_is():
    np.random.seed(3)
    for _ in range(20):
        erased = erase(torch.zeros(3, 32, 32))
        hole = (erased != 0).all(dim=0)
        rows, columns = hole.any(dim=1).nonzero(), hole.any(dim=0).nonzero()
        assert 0 < hole.sum() == len(rows) * len(columns) <= 0.4 * 32 * 32


def test_mixed_labels_are_the_shares_of_the_pictures():
    np.random.seed(4)
    for _ in range(20):
        mixed, share = mix(torch.ones(3, 16, 16), torch.zeros(3, 16, 16), 0.4)
        assert torch.allclose(mixed, torch.tensor(share, dtype=torch.float32))
        pasted, share = paste(torch.ones(3, 16, 16), torch.zeros(3, 16, 16), 1.0)
        assert float(pasted.mean()) == pytest.approx(share)
