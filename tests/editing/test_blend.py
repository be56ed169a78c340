"""How results are set into the picture: nothing outside changes, tone is matched, content stays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch import OptionError
from retouch.editing.blend import BLENDS, DEFAULT, FADE, blend
from retouch.editing.images import ImageError
from retouch.plan.region import dilate

METHODS = st.sampled_from(tuple(BLENDS))
GREY = (120, 130, 140)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flat(height, width, colour=GREY):
    return np.full((height, width, 3), colour, np.uint8)


def grown(mask, border):
    return dilate(mask[None], border)[0]


def square(size, top, left, side):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@st.composite
def masks(draw, most=24):
    """Empty ones, single pixels, dots, rectangles up to the border, everything."""
    height, width = draw(st.integers(1, most)), draw(st.integers(1, most))
    share = draw(st.sampled_from([0.0, 0.02, 0.2, 1.0]))
    mask = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((height, width)) < share
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    mask[top : top + draw(st.integers(0, most)), left : left + draw(st.integers(0, most))] = True
    return mask


# All methods


@given(masks(), st.integers(0, 9), METHODS)
def test_nothing_changes_outside_and_no_argument_does(mask, border, method):
    current, new = noise(*mask.shape, seed=1), noise(*mask.shape, seed=2)
    held = current.copy(), new.copy(), mask.copy()
    found = blend(current, new, mask, border, method)
    assert (found.dtype, found.shape, found.flags.c_contiguous) == (np.uint8, current.shape, True)
    assert not np.shares_memory(found, current)
    outside = ~grown(mask, border)
    assert np.array_equal(found[outside], current[outside])
    assert all(np.array_equal(a, b) for a, b in zip(held, (current, new, mask), strict=True))


@given(masks(), st.integers(0, 9), METHODS, st.sampled_from([(0, 0, 0), GREY, (255, 0, 255)]))
def test_constant_pictures_stay_constant(mask, border, method, colour):
    picture = flat(*mask.shape, colour)
    assert np.array_equal(blend(picture, picture, mask, border, method), picture)


@given(masks(), st.integers(0, 9), METHODS)
def test_the_rest_of_the_new_picture_does_not_matter(mask, border, method):
    current, new = noise(*mask.shape, seed=1), noise(*mask.shape, seed=2)
    other = np.where(grown(mask, border)[..., None], new, 0).astype(np.uint8)
    if method == "multiband":
        other = np.where(grown(mask, 2 * border + 2)[..., None], new, 0).astype(np.uint8)
    assert np.array_equal(blend(current, new, mask, border, method), blend(current, other, mask, border, method))


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 9), METHODS)
def test_where_everything_is_edited_the_new_picture_comes_whole(height, width, border, method):
    current, new = noise(height, width, 1), noise(height, width, 2)
    found = blend(current, new, np.ones((height, width), bool), border, method)
    assert np.abs(found.astype(int) - new).max() <= (1 if method == "multiband" else 0)


@given(masks(), METHODS)
def test_without_a_border_the_new_picture_is_pasted(mask, method):
    current, new = noise(*mask.shape, seed=1), noise(*mask.shape, seed=2)
    assert np.array_equal(blend(current, new, mask, 0, method), np.where(mask[..., None], new, current))


@pytest.mark.parametrize("method", BLENDS)
@pytest.mark.parametrize("place", [(0, 0), (15, 15), (0, 15), (7, 8)])
def test_one_pixel(place, method):
    mask = square(16, *place, 1)
    found = blend(flat(16, 16), flat(16, 16, (120, 130, 200)), mask, 2, method)
    changed = (found != flat(16, 16)).any(2)
    assert changed[place] or method == "harmonise"
    assert not changed[~grown(mask, 2)].any()


@pytest.mark.parametrize("method", BLENDS)
def test_a_border_far_beyond_the_picture(method):
    mask = square(5, 0, 0, 1)
    found = blend(flat(5, 5, (0, 0, 0)), flat(5, 5, (200, 200, 200)), mask, 10**12, method)
    assert (found == (190 if method == "harmonise" else 200)).all()


def test_what_does_not_fit_is_refused():
    picture, mask = noise(4, 6), np.ones((4, 6), bool)
    with pytest.raises(ImageError, match="6x4 and 4x6"):
        blend(picture, noise(6, 4), mask, 1, FADE)
    with pytest.raises(ImageError, match="6x4 and 4x6"):
        blend(picture, picture, mask.T, 1, FADE)
    with pytest.raises(ImageError, match="-1"):
        blend(picture, picture, mask, -1, FADE)
    with pytest.raises(OptionError, match="'paste'; choose from fade, multiband, harmonise"):
        blend(picture, picture, mask, 1, "paste")


# What each one does


@given(masks(), st.integers(0, 20))
def test_fade_has_the_weights_of_a_ramp(mask, border):
    current, new = noise(*mask.shape, seed=1), noise(*mask.shape, seed=2)
    found = blend(current, new, mask, border, "fade")
    assert np.array_equal(found[mask], new[mask])
    for k in range(1, border + 1):
        ring = grown(mask, k) & ~grown(mask, k - 1)
        weight = 1 - k / (border + 1)
        expected = weight * new[ring] + (1 - weight) * current[ring]
        assert np.abs(found[ring] - expected).max(initial=0) <= 0.5 + 1e-9


def test_multiband_passes_details_sharply_and_tone_softly():
    mask, size = square(48, 0, 0, 24), 48
    mask[:, :24] = True
    tone = blend(flat(size, size, (100,) * 3), flat(size, size, (140,) * 3), mask, 7, "multiband")[20, :, 0].astype(int)
    assert tone[0] == 140
    assert tone[-1] == 100
    assert (np.diff(tone) <= 0).all()
    assert np.abs(np.diff(tone)).max() < 40 / 3
    stripes = np.broadcast_to((np.arange(size) % 2 * 100)[None, :, None], (size, size, 3)).astype(np.uint8)
    detail = blend(flat(size, size, (50,) * 3), stripes, mask, 7, "multiband")[20, :, 0].astype(int)
    assert (np.abs(np.abs(detail[:27] - 50) - 50) <= 4).all()
    assert (np.abs(detail[28:] - 50) <= 4).all()


def test_harmonise_takes_a_shift_of_tone_back_and_leaves_content():
    """The new picture is brighter as a whole, and something dark was drawn in the middle of the mask."""
    mask, drawn = square(48, 16, 16, 16), square(48, 20, 20, 8)
    current = flat(48, 48)
    new = flat(48, 48, tuple(c + 20 for c in GREY))
    new[drawn] = 30
    found, faded = (blend(current, new, mask, 5, name).astype(int) for name in ("harmonise", "fade"))
    assert np.abs(found - current)[~drawn].max() <= 4
    assert np.abs(faded - current)[~drawn].max() == 20
    assert (found[drawn] < 40).all()


def test_harmonise_does_not_take_content_for_tone():
    """What was drawn reaches over the edge of the mask, with a colour far from the picture's."""
    mask, current, new = square(48, 16, 16, 16), flat(48, 48), flat(48, 48)
    new[grown(mask, 1)] = (250, 20, 20)
    found = blend(current, new, mask, 5, "harmonise").astype(int)
    assert np.abs(found - new)[mask].max() <= 12


def test_harmonise_follows_a_tone_that_changes_along_the_border():
    mask, current = square(64, 12, 12, 40), flat(64, 64)
    slope = np.linspace(-20, 20, 64)[None, :, None]
    found = blend(current, (current + slope).round().astype(np.uint8), mask, 5, "harmonise").astype(int)
    assert np.abs(found - current)[mask].mean() < 3


@pytest.mark.parametrize("size", [(1, 30), (30, 1), (17, 31)])
def test_a_ring_with_nothing_known_leaves_the_fade(size):
    mask = np.ones(size, bool)
    current, new = noise(*size, seed=1), noise(*size, seed=2)
    assert np.array_equal(blend(current, new, mask, 5, "harmonise"), blend(current, new, mask, 5, "fade"))


def test_the_default_is_one_of_them():
    assert {FADE, DEFAULT} <= BLENDS.keys()
