"""Boxes of pictures at the scale of a model, and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retouch import ImageError
from retouch.editing.canvas.resample import Scaling, scaled


def box(rows, columns):
    return slice(0, rows), slice(0, columns)


def pixels(*size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


sides = st.integers(1, 50)


@given(sides, sides)
@settings(deadline=None)
def test_at_their_own_scale_pixels_pass_as_they_are(height, width):
    scaling = Scaling(box(height, width), (height, width), (64, 56))
    source = pixels(height, width)
    assert np.array_equal(scaling.returned(scaling.shown(source)), source)


@given(sides, sides, sides, sides)
@settings(deadline=None)
def test_a_mask_is_never_lost(height, width, rows, columns):
    scaling = Scaling(box(height, width), (rows, columns), (50, 50))
    for place in (0, -1):
        mask = np.zeros((height, width), bool)
        mask[place, place] = True
        shown = scaling.shown_mask(mask)
        assert shown.shape == (50, 50)
        assert shown[scaling.window].max() > 0
        assert shown.sum() == shown[scaling.window].sum()
        assert 0 <= shown.min() <= shown.max() <= 1


def test_a_picture_smaller_than_the_model_takes_is_reflected_around_itself():
    scaling = Scaling(box(2, 3), (2, 3), (8, 9))
    source = pixels(2, 3)
    shown = scaling.shown(source)
    assert np.array_equal(shown[3:5, 3:6], source)
    assert np.array_equal(shown[2], shown[3])
    assert np.array_equal(shown[:, 2], shown[:, 3])
    assert Scaling(box(1, 1), (1, 1), (64, 64)).shown(pixels(1, 1)).std() < 128


def test_lanczos_both_ways():
    scaling = Scaling(box(40, 60), (20, 30), (20, 30))
    source = pixels(40, 60)
    shown = scaling.shown(source)
    assert np.array_equal(shown, np.asarray(Image.fromarray(source).resize((30, 20), Image.Resampling.LANCZOS)))
    assert np.array_equal(scaling.returned(shown), scaled(shown, (40, 60)))
    assert scaling.scale == 0.5


def test_an_enlarger_is_used_where_the_model_saw_less_than_there_is():
    seen = []

    def fourfold(small):
        seen.append(small.shape)
        return np.kron(small, np.ones((4, 4, 1), np.uint8))

    reduced = Scaling(box(40, 60), (20, 30), (24, 32))
    flat = np.full((24, 32, 3), 7, np.uint8)
    assert (reduced.returned(flat, enlarger=fourfold) == 7).all()
    assert seen == [(20, 30, 3)]
    enlarged = Scaling(box(10, 15), (20, 30), (20, 30))
    enlarged.returned(pixels(20, 30), enlarger=fourfold)
    assert len(seen) == 1


@given(sides, sides, st.integers(1, 64), st.integers(1, 56), st.data())
@settings(deadline=None)
def test_a_part_comes_back_as_it_does_in_the_whole(height, width, rows, columns, data):
    corner = slice(7, 7 + height), slice(9, 9 + width)
    scaling = Scaling(corner, (rows, columns), (64, 56))
    spans = [sorted(data.draw(st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True)))
             for side in (height, width)]  # fmt: skip
    part = tuple(slice(of.start + start, of.start + stop) for of, (start, stop) in zip(corner, spans, strict=True))
    found = pixels(64, 56) // 4 + 96  # Pillow clips between its passes, whose order depends on the size
    within = tuple(slice(*span) for span in spans)
    expected = scaling.returned(found)[within].astype(int)
    assert np.abs(scaling.returned(found, part) - expected).max() <= 2  # rounded after each of two passes


def test_an_enlarger_sees_the_part_and_what_is_around_it():
    seen = []

    def fourfold(small):
        seen.append(small.shape)
        return np.asarray(Image.fromarray(small).resize((4 * small.shape[1], 4 * small.shape[0]), Image.Resampling.BOX))

    scaling = Scaling(box(400, 400), (200, 200), (200, 200))
    ramp = np.broadcast_to(np.linspace(20, 220, 200)[:, None, None], (200, 200, 3)).astype(np.uint8)
    part = slice(100, 120), slice(300, 320)
    found = scaling.returned(ramp, part, fourfold)
    assert np.abs(found.astype(int) - scaling.returned(ramp)[part]).max() <= 2
    assert max(seen[0][:2]) <= 10 + 2 * (16 + 3)


def test_what_does_not_fit():
    with pytest.raises(ImageError, match="60x40 pixels do not fit into 32x32"):
        Scaling(box(40, 60), (40, 60), (32, 32))
    with pytest.raises(ImageError, match="different sizes"):
        Scaling(box(4, 6), (4, 6), (32, 32)).shown(pixels(6, 4))
