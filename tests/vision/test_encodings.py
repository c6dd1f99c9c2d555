"""Run-length encodings and polygons: those that pycocotools would read beyond its memory are refused."""

import numpy as np
import pytest
from pycocotools import mask

from hftrain.data.lines import Fault
from hftrain.vision.encodings import decode, encode, encode_segmentation, run_lengths

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("seed", range(30))
def test_texts_and_numbers_are_what_pycocotools_writes(seed):
    draw = np.random.default_rng(seed)
    height, width = (int(side) for side in draw.integers(1, 200, 2))
    pixels = draw.random((height, width)) < draw.random() ** 3
    text = encode(pixels)
    np.testing.assert_array_equal(decode(text, height, width), pixels)
    flat = pixels.ravel(order="F")
    places = np.flatnonzero(np.diff(flat, prepend=False))  # where a run of the other kind begins
    counts = np.diff(places, prepend=0, append=len(flat)).tolist()
    for written in (text, text.encode(), counts):
        assert run_lengths({"size": [height, width], "counts": written}, "it")["counts"] == text.encode()
    if pixels.any():
        assert encode_segmentation({"size": [height, width], "counts": counts}, height, width, "it") == text


DAMAGED = {
    "too few": ([5, 5], "add up to 10, but 24 x 32 pixels are 768"),
    "too many": ([5, 5000], "add up to 5,005, but"),
    "negative": ([5, -5, 768], "are damaged"),
    "fractions": ([5.5, 5, 757.5], "are damaged"),
    "empty": ([], "are damaged"),
    "nothing": (None, "are damaged"),
    "no letters of counts": ("zz~~", "are damaged"),
    "continued": ("5P", "are damaged"),
    "short": ("52", "add up to 7, but"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_encodings(name):
    counts, message = DAMAGED[name]
    with pytest.raises(Fault, match=f"it: the counts of a run-length encoding {message}"):
        encode_segmentation({"size": [24, 32], "counts": counts}, 24, 32, "it")


@pytest.mark.parametrize("size", [None, [24], [24, -32], ["24", "32"]])
def test_a_size_that_is_none(size):
    with pytest.raises(Fault, match=r"it: the size of a run-length encoding must be \[height, width\], not"):
        run_lengths({"size": size, "counts": [768]}, "it")


@pytest.mark.parametrize("parts", [[1, 2, 3, 4, 5, 6], [["a"] * 6], [[1, 2, 3, 4]], [[0, 0, 9, 0, float("nan"), 9]]])
def test_polygons_of_other_values(parts):
    with pytest.raises(Fault, match="it: a polygon must be an even number of finite numbers, from 6 on, not"):
        encode_segmentation(parts, 24, 32, "it")


def test_polygons_together():
    parts = [[1, 1, 5, 1, 5, 6, 1, 6], [10, 10, 20, 10, 20, 20]]
    text = encode_segmentation(parts, 24, 32, "it")
    wanted = mask.merge(mask.frPyObjects(parts, 24, 32))
    assert text == wanted["counts"].decode() and decode(text, 24, 32).sum() == mask.area(wanted)
    with pytest.raises(Fault, match="it has a polygon that reaches 8 pixels over the edge of the image"):
        encode_segmentation([[1, 1, 40, 1, 5, 6]], 24, 32, "it")
