"""Borders that pictures are given: what was there stays, what is new goes on from it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retouch import ImageError
from retouch.editing.canvas.expand import expanded
from retouch.editing.canvas.picture import Picture

sides = st.integers(0, 40)


@given(st.integers(1, 30), st.integers(1, 30), sides, sides, sides, sides,
       st.sampled_from([np.uint8, np.uint16]), st.sampled_from([3, 4]))  # fmt: skip
@settings(deadline=None)
def test_what_was_there_stays_bit_for_bit(height, width, left, top, right, bottom, dtype, channels):
    source = Picture(np.random.default_rng(0).integers(0, 200, (height, width, channels), dtype), b"icc", b"exif")
    if not any((left, top, right, bottom)):
        with pytest.raises(ImageError):
            expanded(source)
        return
    found, box = expanded(source, left, top, right, bottom)
    assert found.size == (height + top + bottom, width + left + right)
    assert np.array_equal(found.levels[box], source.levels)
    assert (found.icc, found.exif) == (b"icc", b"exif")
    new = np.ones(found.size, bool)
    new[box] = False
    assert (found.levels[new][:, 3:] == np.iinfo(dtype).max).all()
    assert found.pixels[new].max(initial=0) < 200


def test_lines_go_on_over_every_edge():
    stripes = np.zeros((60, 60, 3), np.uint8)
    stripes[20:40] = 200
    found, _ = expanded(Picture(stripes), left=3, right=3)
    assert (found.levels == found.levels[:, 30:31]).all()
    across, _ = expanded(Picture(stripes.swapaxes(0, 1).copy()), top=3, bottom=3)
    assert (across.levels == across.levels[30:31]).all()


def test_further_away_it_is_smoother_and_no_step_is_at_the_edge():
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    found, _ = expanded(Picture(noise), right=120)
    spread = found.levels.astype(float).std(0).mean(1)
    assert spread[130] > 4 * spread[200]
    assert np.abs(found.levels[:, 240].astype(float).mean() - noise.mean()) < 12
    smooth = np.repeat(np.linspace(0, 200, 128).astype(np.uint8)[None, :, None], 128, 0).repeat(3, 2)
    found, _ = expanded(Picture(smooth), left=64, right=64)
    steps = np.abs(np.diff(found.levels[..., 0].astype(int), axis=1)).max(0)
    assert steps.max() <= 6


def test_what_cannot_be_expanded():
    small = Picture(np.zeros((4, 4, 3), np.uint8))
    for given_sides in ((0, 0, 0, 0), (-1, 0, 0, 4)):
        with pytest.raises(ImageError, match="none are below and some above 0"):
            expanded(small, *given_sides)
    with pytest.raises(ImageError, match="more than 100000000 pixels"):
        expanded(small, right=30_000_000)
