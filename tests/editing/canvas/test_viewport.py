"""Where viewports lie: inside the canvas, around what is edited, at sizes that the model takes."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retouch.editing.canvas.viewport import (
    MOST,
    around,
    canvas_box,
    common,
    grown,
    holds,
    hull,
    margin,
    scales,
    shown_box,
    tiles,
)

SIZE = (64, 48)


@st.composite
def boxes(draw, canvas):
    """A box of a canvas (H, W)."""
    ends = [sorted(draw(st.tuples(*[st.integers(0, limit)] * 2).filter(lambda t: t[0] != t[1]))) for limit in canvas]
    return slice(*ends[0]), slice(*ends[1])


@st.composite
def places(draw):
    """A canvas and a box of it; extreme aspects, single pixels and borders among them."""
    canvas = draw(st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
    return canvas, draw(boxes(canvas))


@given(places())
@settings(max_examples=200, deadline=None)
def test_viewports_lie_in_the_canvas_at_a_size_the_model_takes(place):
    canvas, box = place
    found = [around(box, scale, SIZE, canvas) for scale in scales(SIZE, canvas)]
    assert all(each.size == SIZE for each in found)
    assert all(holds((slice(0, canvas[0]), slice(0, canvas[1])), each.box) for each in found)
    assert found[-1].sides == canvas, "the last one shows all of it"
    assert holds(found[-1].box, box)
    assert all(a.sides[0] * a.sides[1] <= b.sides[0] * b.sides[1] for a, b in pairwise(found))


@given(places())
@settings(max_examples=200, deadline=None)
def test_a_box_is_shown_whole_and_found_again(place):
    canvas, box = place
    for scale in scales(SIZE, canvas):
        viewport = around(box, scale, SIZE, canvas)
        if not holds(viewport.box, box):
            continue
        shown = shown_box(viewport, box)
        assert holds(viewport.window, shown)
        assert holds(canvas_box(viewport, shown), box)


@given(places())
@settings(max_examples=100, deadline=None)
def test_pictures_and_masks_have_the_size_of_the_model(place):
    canvas, box = place
    viewport = around(box, scales(SIZE, canvas)[0], SIZE, canvas)
    part = np.zeros((*viewport.sides, 3), np.uint8)
    assert viewport.shown(part).shape == (*SIZE, 3)
    assert viewport.returned(viewport.shown(part)).shape == part.shape
    inner = common(viewport.box, box)
    mask = np.zeros(viewport.sides, np.bool_)
    mask[inner[0].start - viewport.box[0].start, inner[1].start - viewport.box[1].start] = True
    assert viewport.shown_mask(mask).any(), "no pixel is lost"


@pytest.mark.parametrize("canvas", [(1, 1), (1, 5000), (5000, 1), (64, 48), (100_000, 30)])
def test_extreme_canvases_have_scales(canvas):
    found = scales(SIZE, canvas)
    assert found == sorted(found, reverse=True)
    assert found[-1] <= MOST
    assert math.isclose(found[-1], min(MOST, SIZE[0] / canvas[0], SIZE[1] / canvas[1]))


def test_a_viewport_is_centred_and_moved_into_the_canvas():
    middle = around((slice(100, 110), slice(100, 110)), 1.0, SIZE, (300, 300))
    assert middle.box == (slice(73, 137), slice(81, 129))
    corner = around((slice(0, 4), slice(296, 300)), 1.0, SIZE, (300, 300))
    assert corner.box == (slice(0, 64), slice(252, 300))


def test_margins_count_pixels_of_the_model_but_not_at_the_border_of_the_canvas():
    box = slice(100, 110), slice(100, 110)
    canvas = 300, 300
    assert margin(around(box, 1.0, SIZE, canvas), box, canvas) == 19
    assert margin(around(box, 2.0, SIZE, canvas), box, canvas) == 2 * 7
    corner = slice(0, 4), slice(0, 4)
    assert margin(around(corner, 1.0, SIZE, canvas), corner, canvas) == 44
    assert margin(around(corner, 1.0, SIZE, (64, 48)), corner, (64, 48)) == math.inf


def test_boxes_are_joined_cut_and_grown():
    one, other = (slice(0, 5), slice(2, 6)), (slice(3, 9), slice(4, 5))
    assert common(one, other) == (slice(3, 5), slice(4, 5))
    assert common(one, (slice(5, 9), slice(0, 9))) is None
    assert hull(one, other) == (slice(0, 9), slice(2, 6))
    assert grown(one, 3, (slice(0, 7), slice(1, 20))) == (slice(0, 7), slice(1, 9))


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([1, 2, 8]))
@settings(max_examples=100, deadline=None)
def test_tiles_hold_the_canvas_and_lie_positions_apart(height, width, factor):
    found = tiles(SIZE, (height, width), factor)
    seen = np.zeros((height, width), np.bool_)
    for tile in found:
        seen[tile.box] = True
        assert tile.size == SIZE
        assert tile.scale == 1
    assert seen.all()
    for axis in (0, 1):
        corners = [tile.box[axis].start - tile.window[axis].start for tile in found]
        assert {(corner - corners[0]) % factor for corner in corners} == {0}
