"""Maps of segments follow their image: a marked pixel is found again."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from hftrain.vision.encodings import decode, encode
from hftrain.vision.masks import MaskJitter, Segmented, copy_objects, resize_map

pytestmark = pytest.mark.unit


def marked(seed, things=True):
    """An image with two coloured rectangles on black, and its map."""
    draw = np.random.default_rng(seed)
    values, segments = np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60), np.int32)
    for number, colour in enumerate(((250, 0, 0), (0, 250, 0)), 1):
        left, top = 30 * (number - 1) + int(draw.integers(0, 12)), int(draw.integers(0, 22))
        values[top : top + 14, left : left + 16] = colour
        segments[top : top + 14, left : left + 16] = number
    return Segmented(Image.fromarray(values), segments, np.array([things, things]))


def check(image, segments):
    """Red pixels belong to segments 1 and 3, green ones to 2 and 4."""
    values = np.asarray(image).astype(int)
    assert values.shape[:2] == segments.shape
    for place, numbers in enumerate(((1, 3), (2, 4))):
        bright = (values[..., place] > 200) & (values[..., 1 - place] < 50)
        np.testing.assert_array_equal(bright, np.isin(segments, numbers))


@pytest.mark.parametrize(
    "jitter",
    [
        MaskJitter(flip=1.0),
        MaskJitter(scales=(0.5, 2.0)),
        MaskJitter(copied=1.0),
        MaskJitter(copied=0.7, scales=(0.3, 2.5), flip=0.5),
    ],
)
def test_a_marked_pixel_is_found_again(jitter):
    numbers = set()
    for seed in range(30):
        np.random.seed(seed)
        # pasting resizes the other image: only at one size are colours exact
        other = marked(seed + 100) if jitter.scales == (1.0, 1.0) else marked(seed + 100, things=False)
        image, segments, copied = jitter(marked(seed), partial(lambda shown: shown, other))
        check(image, segments)
        numbers |= set(np.unique(segments).tolist())
        assert copied or segments.max() <= 2
    assert {1, 2} <= numbers and (3 in numbers) == (jitter.copied == 1)


def test_draws_follow_from_the_seed():
    jitter = MaskJitter(copied=0.5, scales=(0.3, 2.5), flip=0.5, colour=0.4)
    for seed in range(5):
        results = []
        for _ in range(2):
            np.random.seed(seed)
            results.append(jitter(marked(seed), lambda: marked(7)))
        np.testing.assert_array_equal(results[0][0], results[1][0])
        np.testing.assert_array_equal(results[0][1], results[1][1])


def test_copied_objects_cover_and_others_stay():
    own, other = marked(1), marked(2)
    np.random.seed(1)
    image, segments = copy_objects(own.image, own.segments, 2, other.image, other.segments, other.things)
    over = segments > 2
    assert over.any()
    np.testing.assert_array_equal(segments[~over], own.segments[~over])
    np.testing.assert_array_equal(np.asarray(image)[over], np.asarray(other.image)[over])


def test_maps_are_resized_as_pictures_are():
    own = marked(3)
    large = own.image.resize((120, 80), Image.Resampling.NEAREST)
    check(large, resize_map(own.segments, 120, 80))


def test_encodings_are_lossless():
    pixels = np.random.default_rng(0).random((17, 23)) < 0.5
    np.testing.assert_array_equal(decode(encode(pixels), 17, 23), pixels)
