"""Edits of pictures of any size: nothing outside changes, viewports follow each other, undo restores every bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import retouch
from editing.diffusion.test_session import editor
from editing.live import SPARSE
from pipelines import painted
from retouch import FallbackWarning, ImageError, OptionError, StoreError, UndoError

STEPS = {"steps": 3, "strength": 1.0}
"""Of every canvas here, whose model sees 32x32 pixels."""


def photograph(height=100, width=140, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 10), -(-width // 10), 3), np.uint8)
    return coarse.repeat(10, 0).repeat(10, 1)[:height, :width]


def canvas(picture=None, **options):
    picture = photograph() if picture is None else picture
    return editor("ddpm", SPARSE).canvas(picture, **{**STEPS, **options})


def stroke(shown, top, left, size=6, colour=(255, 0, 40)):
    return painted(shown.pixels, top, left, size, colour)


def outside(found, size):
    mask = np.ones(size, np.bool_)
    left, top, right, bottom = found.rectangle
    mask[top:bottom, left:right] = False
    return mask


@pytest.mark.parametrize("place", [(50, 60), (0, 0), (94, 134), (0, 70)])
def test_an_edit_changes_its_region_and_nothing_else(place):
    shown = canvas()
    before = shown.pixels
    found = shown.edit(stroke(shown, *place))
    changed = (shown.pixels != before).any(-1)
    assert changed[place[0] : place[0] + 6, place[1] : place[1] + 6].any()
    assert not changed[outside(found, before.shape[:2])].any()
    assert np.array_equal(np.asarray(found.image), shown.image.crop(found.rectangle))
