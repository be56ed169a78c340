"""Crop and stitch: the box around a mask, and what is pasted back."""

import numpy as np
import pytest

from retouch.bench.crop import crop_and_stitch, crop_box


def rectangle(height, width, top, left, bottom, right):
    mask = np.zeros((height, width), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("span", "box"),
    [
        ((40, 40, 60, 60), (35, 35, 65, 65)),  # in the middle: half as large again
        ((40, 45, 60, 55), (35, 35, 65, 65)),  # a narrow one: the model's aspect
        ((0, 0, 20, 20), (0, 0, 30, 30)),  # moved into the image
        ((80, 90, 100, 100), (70, 70, 100, 100)),
        ((0, 40, 20, 60), (35, 0, 65, 30)),
        ((10, 20, 90, 30), (0, 0, 100, 100)),  # larger than the image: all of it
        ((50, 50, 51, 51), (49, 49, 51, 51)),
        ((0, 0, 100, 100), (0, 0, 100, 100)),
    ],
)
def test_box_is_grown_square_and_inside_the_image(span, box):
    assert crop_box(rectangle(100, 100, *span), (64, 64)) == box


def test_box_has_the_aspect_of_the_model():
    left, top, right, bottom = crop_box(rectangle(100, 200, 40, 50, 60, 60), (64, 128))
    assert (bottom - top, right - left) == (30, 60)


@pytest.mark.parametrize("shape", [(100, 37), (37, 100), (3, 3)])
def test_box_holds_the_mask_and_stays_inside_any_image(shape):
    generator = np.random.default_rng(0)
    for _ in range(200):
        (top, bottom), (left, right) = (sorted(generator.choice(n + 1, 2, replace=False)) for n in shape)
        x0, y0, x1, y1 = crop_box(rectangle(*shape, top, left, bottom, right), (64, 64))
        assert 0 <= x0 <= left < right <= x1 <= shape[1]
        assert 0 <= y0 <= top < bottom <= y1 <= shape[0]


@pytest.mark.parametrize("border", [0, 1, 2, 5, 8, 40])
def test_paste_stays_within_mask_and_border(border):
    original = np.full((96, 96, 3), 10, np.uint8)
    mask = rectangle(96, 96, 40, 42, 60, 62)
    result = crop_and_stitch(original, original, mask, (64, 64), border, lambda pixels: np.full_like(pixels, 250))
    assert (result[50, 52] > (150 if border < 10 else 70)).all()
    grown = rectangle(96, 96, max(0, 40 - border), max(0, 42 - border), 60 + border, 62 + border)
    assert (result[~grown] == original[~grown]).all()
    if border:
        assert 10 < result[50, 41, 0] < 250


def test_a_crop_that_is_not_redrawn_comes_back_almost_as_it_was():
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    original = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(7)), -1)
    seen = []

    def redraw(pixels):
        seen.append(pixels.shape)
        return pixels

    mask = rectangle(64, 64, 20, 20, 30, 30)
    result = crop_and_stitch(original, original, mask, (128, 128), 3, redraw)
    assert seen == [(128, 128, 3)]
    assert np.abs(result.astype(int) - original).max() <= 2
