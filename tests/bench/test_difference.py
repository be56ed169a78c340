"""PSNR, SSIM and LPIPS of pictures: known values, masks, and pictures that cannot be compared."""

import math

import numpy as np
import pytest

from models.test_lpips import pictures, square
from retouch.bench.difference import MAX_PSNR, compare, inside_and_image, psnr, seam
from retouch.editing.blend import blend
from retouch.editing.images import ImageError
from retouch.models.lpips import trained


@pytest.fixture(scope="module")
def lpips():
    try:
        return trained()
    except ImportError as error:
        pytest.skip(str(error))


def test_psnr_of_known_errors():
    grey = np.ones((8, 8, 3))
    assert psnr(grey) == pytest.approx(20 * math.log10(255))
    assert psnr(255 * grey) == 0
    assert psnr(0 * grey) is None


def test_measures_are_taken_in_the_mask_and_over_the_image():
    picture, truth, mask = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8), np.eye(2, dtype=np.bool_)
    truth[0, 0] = 255
    found = inside_and_image("x", picture, truth, mask, mean_abs_err=np.mean)
    assert found == {
        "x_psnr_db": pytest.approx(10 * math.log10(2)),
        "x_mean_abs_err": 127.5,
        "x_psnr_image_db": pytest.approx(10 * math.log10(4)),
        "x_mean_abs_err_image": 63.75,
    }
    assert inside_and_image("x", truth, truth, mask)["x_psnr_db"] is None


def test_equal_pictures():
    pytest.importorskip("skimage")
    plain, _ = pictures()
    found = compare(plain, plain.copy(), square(), None)
    assert (found["psnr"], found["psnr_inside"]) == (MAX_PSNR, MAX_PSNR)
    assert found["ssim"] == found["ssim_inside"] == pytest.approx(1)
    assert math.isnan(found["lpips"])
    assert math.isnan(found["lpips_inside"])


def test_ssim_of_two_flat_pictures_is_that_of_their_levels():
    pytest.importorskip("skimage")
    a, b = (np.full((16, 16, 3), level, np.uint8) for level in (50, 100))
    stabiliser = (0.01 * 255) ** 2
    expected = (2 * 50 * 100 + stabiliser) / (50**2 + 100**2 + stabiliser)
    found = compare(a, b, np.eye(16, dtype=np.bool_), None)
    assert (found["ssim"], found["ssim_inside"]) == pytest.approx((expected, expected))


def test_errors_are_inside_the_mask_or_not():
    pytest.importorskip("skimage")
    plain, painted = pictures()
    inside, outside = (compare(plain, painted, mask, None) for mask in (square(), np.indices((64, 64))[0] > 40))
    assert inside["psnr"] == outside["psnr"]
    assert inside["psnr"] - inside["psnr_inside"] == pytest.approx(10 * math.log10(64 * 64 / 600))
    assert inside["ssim_inside"] < inside["ssim"] < outside["ssim_inside"] == pytest.approx(1)
    assert outside["psnr_inside"] == inside["psnr_outside"] == MAX_PSNR


def test_bad_pictures_are_named():
    plain, painted = pictures()
    for a, b, mask, reason in [
        (plain, painted[:40], square(), "different sizes"),
        (plain, painted, square(32), "different sizes"),
        (plain, painted, np.zeros((64, 64), np.bool_), "the mask is empty"),
        (plain, painted.astype(np.float32), square(), "not float32"),
        (plain[:6], painted[:6], square()[:6], "too small"),
    ]:
        with pytest.raises(ImageError, match=reason):
            compare(a, b, mask, None)


def test_lpips_inside_is_the_mean_of_the_map(lpips):
    pytest.importorskip("skimage")
    plain, painted = pictures()
    found = compare(plain, painted, square(), lpips)
    assert found["lpips"] == pytest.approx(lpips.distance_map(plain, painted).mean())
    assert found["lpips_inside"] == pytest.approx(lpips.distance_map(plain, painted)[square()].mean())


def test_smallest_picture(lpips):
    plain, painted = pictures(31)
    mask = np.ones((31, 31), np.bool_)
    assert compare(plain, painted, mask, lpips)["lpips"] > 0
    with pytest.raises(ImageError, match="31 pixels"):
        compare(plain[:, :30], painted[:, :30], mask[:, :30], lpips)


# Seams

MASK, SIZE = np.zeros((40, 40), np.bool_), (40, 40, 3)
MASK[10:30, 10:30] = True


def test_a_step_and_a_ramp_of_the_same_height_are_the_same_seam():
    before, pasted = np.full(SIZE, 100, np.uint8), np.full(SIZE, 100, np.uint8)
    pasted[MASK] = 160
    faded = blend(before, np.full(SIZE, 160, np.uint8), MASK, 5, "fade")
    assert seam(before, before, MASK, 5) == 0
    assert seam(pasted, before, MASK, 0) == 60
    # Outer squares are longer: the average step is a little off a sixth of the height.
    assert seam(pasted, before, MASK, 5) == pytest.approx(8.1, abs=0.2)
    assert seam(faded, before, MASK, 5) == pytest.approx(10, rel=0.02)


def test_steps_of_the_unedited_picture_are_no_seam():
    before = np.zeros(SIZE, np.uint8)
    before[:, 8:] = 90
    brighter = np.where(MASK[..., None], before + 30, before).astype(np.uint8)
    assert seam(before, before, MASK, 3) == 0
    assert seam(brighter, before, MASK, 3) == seam(brighter - before, 0 * before, MASK, 3)
    assert seam(0 * before, before, MASK, 3) < 0


@pytest.mark.parametrize("share", [0, 1])
def test_no_border_no_seam(share):
    picture = np.zeros(SIZE, np.uint8)
    assert math.isnan(seam(picture, picture, np.full(SIZE[:2], bool(share)), 4))
