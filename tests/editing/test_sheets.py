"""Outlines and tiles."""

import numpy as np
import pytest

from retouch.editing.images import ImageError
from retouch.editing.sheets import OUTLINE, TILE, outlined, side_by_side
from retouch.plan.region import dilate


def _noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("side", "width"), [(40, 1), (300, 2)])
def test_outlines(side, width):
    pixels, mask = _noise(side, side), np.zeros((side, side), bool)
    mask[10:20, 5:30] = True
    found = outlined(pixels, mask)
    line = dilate(mask[None], width)[0] & ~mask
    assert np.array_equal(found[mask], pixels[mask])
    assert (found[line] == OUTLINE).all()
    outside = ~mask & ~line
    assert np.array_equal(found[outside], np.rint(pixels[outside] * 0.6))
    with pytest.raises(ImageError, match="different sizes"):
        outlined(pixels, mask[1:])


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (4, 4, 1), (5, 4, 2)])
def test_tiles_wrap_after_four(count, columns, rows):
    sheet = side_by_side([(f"tile {i}", _noise(8, 16, seed=i)) for i in range(count)])
    assert sheet.mode == "RGB"
    assert sheet.width // TILE == columns
    assert rows * TILE // 2 < sheet.height < rows * TILE * 0.7


def test_tiles_of_any_shape_and_captions_of_any_text():
    tiles = [("", _noise(1, 900)), ("two\nlines\tand é 日本 " * 50, _noise(900, 1)), ("W" * 500, _noise(1, 1))]
    sheet = np.asarray(side_by_side(tiles))
    gap = sheet[:, TILE + 8 : TILE + 16]
    assert (gap == 255).all()
    with pytest.raises(ImageError, match="no pictures"):
        side_by_side([])
