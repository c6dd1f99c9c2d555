"""Words on pictures: whole, and large enough for the thumbnail of a report."""

import numpy as np
import pytest
from PIL import Image

from hftrain.vision.sheet import draw_boxes, draw_masks, pngs_of

pytestmark = pytest.mark.unit


def letters(picture: Image.Image) -> np.ndarray:
    """(H, W) bool: where it is white."""
    return (np.asarray(picture) == 255).all(axis=2)


@pytest.mark.parametrize("edge", [64, 1000])
def test_words_are_whole_at_each_edge(edge):
    image = Image.new("RGB", (edge, edge))
    middle = letters(draw_boxes(image, [[edge // 3, edge // 2, edge, edge]], ["a ball"]))
    corner = letters(draw_boxes(image, [[edge - 2, 0, edge, 2]], ["a ball"]))
    assert middle.sum() == corner.sum() > 0
    mask = np.zeros((edge, edge), bool)
    mask[-1, -1] = True
    assert letters(draw_masks(image, [mask], ["a ball"])).sum() == corner.sum()


def test_letters_grow_with_the_picture():
    heights = []
    for edge in (400, 1600):
        shown = letters(draw_boxes(Image.new("RGB", (edge, edge)), [[0, edge // 2, 9, edge - 1]], ["HHH"]))
        heights.append(int(shown.any(axis=1).sum()))
    assert heights[1] > 3 * heights[0] > 30


def test_pngs_of_pictures(tmp_path):
    def named(*files: str) -> list[str]:
        return [str(png.relative_to(tmp_path)) for png in pngs_of(files, "--draw", tmp_path / "new")]

    assert named("x/a.jpg", "y/b c.jpg") == ["new/a.png", "new/b c.png"]
    assert named("x/a.jpg", "x/a.tif", "b.jpg") == ["new/a.jpg.png", "new/a.tif.png", "new/b.png"]
    with pytest.raises(ValueError, match=r"--draw .*: two images would be a\.jpg\.png: give them in two commands"):
        pngs_of(["x/a.jpg", "y/a.jpg"], "--draw", tmp_path)
