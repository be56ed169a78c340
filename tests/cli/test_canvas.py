"""`retouch edit` on pictures of sizes that the model does not take."""

import numpy as np
import pytest

from commands import EDIT, run, said
from retouch.editing.canvas.picture import Picture
from retouch.editing.images import save_png

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

OPTIONS = (*EDIT, "--enlarger", "lanczos")
INSIDE = slice(20, 70), slice(30, 90)
"""Around the stroke, with what an edit may change."""


def edit(original, edited, output, *args):
    return run("edit", original, edited, "-o", output, *args)


@pytest.fixture
def files(folder):
    """A picture of 16 bits with alpha, and one with a stroke on it."""
    coarse = np.random.default_rng(0).integers(0, 65536, (10, 14, 4), np.uint16)
    levels = coarse.repeat(10, 0).repeat(10, 1)
    Picture(levels.copy(), exif=None).write(folder / "large.png")
    levels[40:48, 50:60, :3] = 65535, 0, 10000
    Picture(levels).write(folder / "painted.png")
    return folder


def outside(found):
    levels = Picture.read(found).levels.copy()
    levels[INSIDE] = 0
    return levels


def test_a_picture_of_any_size_keeps_its_depth_and_all_that_is_outside(files, model):
    result = edit("large.png", "painted.png", "out.png", "--model", model, *OPTIONS, "--preview", "p.png")
    assert result.exit_code == 0, result.output
    found, before = Picture.read("out.png"), Picture.read("large.png")
    assert found.levels.dtype == np.uint16
    assert np.array_equal(found.alpha, before.alpha)
    assert np.array_equal(outside("out.png"), outside("large.png"))
    assert (found.pixels[40:48, 50:60] != before.pixels[40:48, 50:60]).any(2).mean() > 0.9
    for said_ in ("planner: ", "the fastest of those", "edit, 0.57% of the picture", "written to out.png"):
        assert said_ in result.stdout, result.stdout


def test_a_mask_alone_draws_its_part_again(files, model):
    mask = np.zeros((100, 140), np.uint8)
    mask[40:48, 50:60] = 255
    save_png(np.dstack([mask] * 3), files / "mask.png")
    result = edit("large.png", "large.png", "out.tif", "--mask", "mask.png", "--model", model, *OPTIONS)
    assert result.exit_code == 0, result.output
    assert np.array_equal(outside("out.tif"), outside("large.png"))
    assert not np.array_equal(Picture.read("out.tif").levels, Picture.read("large.png").levels)


def test_a_folder_keeps_the_canvas_and_gives_its_pictures_back(files, model):
    result = edit("large.png", "painted.png", "one.png", "--model", model, *OPTIONS, "--session", "kept")
    assert result.exit_code == 0, result.output
    assert "the session kept is at version 1" in result.stdout
    levels = Picture.read("one.png").levels.copy()
    levels[44:50, 60:66, :3] = 0
    Picture(levels).write("more.png")
    wrong = edit("large.png", "more.png", "two.png", "--session", "kept")
    assert wrong.exit_code == 2
    assert "large.png is not the current picture of the canvas kept" in said(wrong)
    result = edit("one.png", "more.png", "two.png", "--session", "kept")
    assert result.exit_code == 0, result.output
    assert "version 2" in result.stdout
    for version, name in ((0, "large.png"), (1, "one.png"), (2, "two.png")):
        assert run("go", "kept", version, "-o", "back.png").exit_code == 0
        assert np.array_equal(Picture.read("back.png").levels, Picture.read(name).levels)


def test_what_a_canvas_does_not_take(files, model):
    same = edit("large.png", "large.png", "out.png", "--model", model)
    assert "nothing differs" in same.stdout
    assert np.array_equal(Picture.read("out.png").levels, Picture.read("large.png").levels)
    wrong = edit("large.png", "painted.png", "out.png", "--model", model, *EDIT, "--enlarger", "best")
    assert wrong.exit_code == 2
    assert "unknown enlarger 'best'" in said(wrong)
