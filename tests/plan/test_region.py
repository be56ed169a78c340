"""Regions and policies."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from retouch import Policy, Region
from retouch.ir.geometry import Grid
from retouch.plan.policy import PRESETS
from retouch.plan.region import dilate, spread
from support import spot


@st.composite
def _masks(draw, most=14, batch=2):
    shape = (draw(st.integers(1, batch)), draw(st.integers(1, most)), draw(st.integers(1, most)))
    seed, share = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    return np.random.default_rng(seed).random(shape) < share


@given(_masks(), st.integers(0, 20))
def test_dilation_is_a_square_of_the_radius(mask, radius):
    expected = F.max_pool2d(torch.from_numpy(mask).double(), 2 * radius + 1, 1, radius)
    before = mask.copy()
    assert np.array_equal(dilate(mask, radius), expected.numpy() > 0)
    assert np.array_equal(mask, before)


@given(_masks(8), st.integers(1, 4), st.integers(1, 4))
def test_coarser_grids_take_the_maximum(mask, down, right):
    fine = np.kron(mask, np.ones((1, down, right), bool)) & (
        np.random.default_rng(0).random((len(mask), mask.shape[1] * down, mask.shape[2] * right)) < 0.5
    )
    expected = F.max_pool2d(torch.from_numpy(fine).double(), (down, right)).numpy() > 0
    assert np.array_equal(Region(fine).on(Grid(*mask.shape[1:])).mask, expected)


@given(_masks(8), st.integers(1, 4), st.integers(1, 4))
def test_finer_grids_repeat(mask, down, right):
    grid = Grid(mask.shape[1] * down, mask.shape[2] * right)
    assert np.array_equal(Region(mask).on(grid).mask, np.kron(mask, np.ones((1, down, right), bool)))


@given(_masks(), st.integers(1, 20), st.integers(1, 20))
def test_other_grids_cover_every_overlap(mask, height, width):
    """Positions are squares of the unit square; those that overlap an active one are active."""
    found = Region(mask).on(Grid(height, width)).mask
    old = mask.shape[1:]
    for y in range(height):
        rows = [i for i in range(old[0]) if i * height < (y + 1) * old[0] and (i + 1) * height > y * old[0]]
        for x in range(width):
            columns = [j for j in range(old[1]) if j * width < (x + 1) * old[1] and (j + 1) * width > x * old[1]]
            assert np.array_equal(found[:, y, x], mask[:, rows][:, :, columns].any((1, 2)))


def test_from_mask_takes_tensors_and_arrays():
    mask = spot(6, 8)
    for given_mask in (mask, mask.numpy(), mask[None], mask.t().contiguous().t()):
        region = Region.from_mask(given_mask)
        assert region.grid == Grid(6, 8)
        assert np.array_equal(region.mask[0], mask.numpy())
    mask[:] = True
    assert region.mask.sum() == 4


@pytest.mark.parametrize("mask", [torch.zeros(4, 4), torch.zeros(4, 4, dtype=torch.uint8), np.zeros((4, 4), np.int64)])
def test_from_mask_wants_booleans(mask):
    with pytest.raises(TypeError, match="a mask is boolean"):
        Region.from_mask(mask)


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4, 4), (0, 4), (2, 0, 3)])
def test_from_mask_wants_two_or_three_dimensions(shape):
    with pytest.raises(ValueError, match="a mask is"):
        Region.from_mask(torch.zeros(shape, dtype=torch.bool))


def test_from_images_compares_every_channel():
    image = torch.zeros(3, 4, 5)
    edited = image.clone()
    edited[2, 1, 3], edited[0, 2, 2], edited[1, 0, 0] = 0.5, -0.02, 0.01
    region = Region.from_images(image, edited)
    assert region.mask[0].nonzero()[0].tolist() == [1, 2]
    assert Region.from_images(image, edited, eps=0.1).mask.sum() == 1
    assert Region.from_images(image, edited, eps=0).mask.sum() == 3


def test_from_images_of_a_batch_and_with_nan():
    image = torch.zeros(2, 3, 4, 5)
    edited = image.clone()
    edited[1, 0, 2, 2] = float("nan")
    region = Region.from_images(image, edited)
    assert region.mask.shape == (2, 4, 5)
    assert region.mask.sum() == 1
    assert region.mask[1, 2, 2]


def test_from_images_of_whole_numbers_does_not_wrap():
    image, edited = torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4, dtype=torch.uint8)
    image[0, 0, 0], edited[0, 1, 1] = 200, 255
    assert Region.from_images(image, edited, eps=199).mask.sum() == 2


def test_from_images_refuses_other_shapes():
    with pytest.raises(ValueError, match="different shapes"):
        Region.from_images(torch.zeros(3, 4, 4), torch.zeros(3, 4, 5))
    with pytest.raises(ValueError, match="an image is"):
        Region.from_images(torch.zeros(4, 4), torch.zeros(4, 4))


def test_from_rows():
    region = Region.from_rows([0, 7, 7], 2, 4)
    assert region.mask[0].tolist() == [[True, False, False, False], [False, False, False, True]]
    assert not Region.from_rows([], 2, 4).mask.any()
    assert Region.from_rows(iter(range(8)), 2, 4).mask.all()
    for row in (-1, 8):
        with pytest.raises(ValueError, match="rows of a 2x4 grid are 0 to 7"):
            Region.from_rows([row], 2, 4)


def test_repr_and_fraction():
    region = Region.from_mask(torch.stack([spot(10, 10), spot(10, 10)]))
    assert region.fraction == pytest.approx(0.04)
    assert repr(region) == "Region(10x10, 2 samples, 4.00% active)"


def test_spread_grows_on_the_edits_grid_and_on_each_other():
    policy = Policy(dilate=2, dilate_grid=1)
    region = Region.from_mask(spot(32, 32, 16, 16, 1))
    assert spread(region, Grid(32, 32), policy).sum() == 25
    assert spread(region, Grid(16, 16), policy).sum() == (3 + 2) ** 2
    assert spread(region, Grid(1, 1), policy).all()


def test_presets():
    assert set(PRESETS) == {"paper", "balanced", "fast", "exact"}
    assert all(Policy.named(name).name == name for name in PRESETS)
    assert Policy.named(PRESETS["exact"]) is PRESETS["exact"]
    assert Policy.named("exact").exact


@pytest.mark.parametrize(
    "options",
    [{"stats": "guessed"}, {"probes": 0}, {"probe_distance": -1}, {"dilate": -1}, {"dilate_grid": -1}, {"margin": -1},
     {"dense_below": 1.5}, {"crossover": 0}, {"crossover": 2}],
    ids=str,
)  # fmt: skip
def test_policies_are_checked(options):
    with pytest.raises(ValueError, match=r"stats is|cannot be negative|fractions|probes is"):
        Policy(**options)


def test_policies_are_values():
    assert Policy(dilate=3) == Policy(dilate=3)
    assert len({Policy(), Policy(), Policy(dilate=1)}) == 2


def test_exact_needs_refreshed_statistics():
    """With those of the original no update would equal a fresh recording."""
    with pytest.raises(ValueError, match="refreshed"):
        Policy(exact=True, stats="recorded")


def test_a_region_is_a_value_that_later_strokes_do_not_change():
    drawn = spot(8, 8).numpy()
    region = Region(drawn[None])
    same = Region.from_mask(drawn)
    drawn[:] = True
    assert region == same
    assert hash(region) == hash(same)
    assert region != Region.from_mask(drawn)
    assert region != same.dilated(1)
    assert Region.from_mask(np.zeros((2, 8), np.bool_)) != Region.from_mask(np.zeros((8, 2), np.bool_))
    with pytest.raises(ValueError, match="read-only"):
        region.mask[:] = True
