"""Sessions as overlapping views of one picture, denoised together."""

from dataclasses import replace
from itertools import pairwise
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import retouch
from editing.diffusion.test_session import distance, editor, opened
from editing.live import SPARSE
from pipelines import PIXEL_SCHEDULERS, painted, picture
from retouch import ImageError, OptionError
from retouch.editing.diffusion.asked import Asked
from retouch.editing.diffusion.lockstep import Shared, agreed
from retouch.editing.diffusion.views import View, redrawn_together

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

STEP = 12
"""Pixels from one view to the next; a position of a latent is 4 of them."""


def views(name, count=2, policy=SPARSE):
    """Sessions on a picture that is `STEP` larger for each view after the first, with their corners."""
    width = picture(name).shape[1]
    large = np.concatenate([picture(name), picture(name, 1)], 1)[:, : width + STEP * (count - 1)]
    words = {} if name in PIXEL_SCHEDULERS else {"prompt": "a b"}
    corners = [STEP * number for number in range(count)]
    opened_on = editor(name, policy).open
    return large, [(opened_on(large[:, x : x + width], steps=4, strength=0.7, **words), x) for x in corners]


def parts(found, mask=None, image=None, **asked):
    """An edit of the larger picture as it is asked of the views."""
    made = []
    for session, x in found:
        own = slice(x, x + session.size[1])
        given = {name: whole[:, own] for name, whole in (("mask", mask), ("image", image)) if whole is not None}
        made.append(View(session, 100 + x, 40, Asked(**given, **asked)))
    return made


@pytest.mark.parametrize("name", ["ddpm", "sd", "inpaint", "kontext"])
def test_a_view_alone_makes_what_edit_makes(name):
    session = opened(name, SPARSE)
    other, drawn = session.branch(), painted(session.pixels, 6, 10)
    expected = np.asarray(session.edit(drawn).image)
    found = redrawn_together([View(other, 7, 3, Asked(drawn))])
    assert (found.left, found.top) == (7, 3)
    assert np.array_equal(found.image, expected)
    assert np.array_equal(found.edits[0].image, expected)
    assert torch.equal(other.version.tensors["latents"], session.version.tensors["latents"])
    assert other.version.facts["edit"] == "edit"


@pytest.mark.parametrize("policy", [SPARSE, "exact"], ids=["sparse", "exact"])
@pytest.mark.parametrize("name", ["ddpm", "sd", "inpaint", "kontext"])
def test_views_agree_where_they_overlap_and_nothing_else_changes(name, policy):
    large, found = views(name, 3, policy)
    mask = np.zeros(large.shape[:2])
    mask[4:14, 6:-6] = np.linspace(0.5, 1, mask.shape[1] - 12)  # grey: positions join at several steps
    made = redrawn_together(parts(found, mask, inpaint=True))
    after, changed = np.asarray(made.image), np.zeros(mask.shape, bool)
    assert (made.left, made.top, after.shape) == (100, 40, large.shape)
    for edited, (session, x) in zip(made.edits, found, strict=True):
        own = slice(x, x + session.size[1])
        assert np.array_equal(session.pixels, after[:, own])
        assert np.array_equal(edited.image, session.pixels)
        assert session.version.facts["edit"] == "inpaint"
        changed[:, own] |= edited.region.dilated(session.border).mask[0]
    assert np.array_equal(after[~changed], large[~changed])
    assert (after[changed] != large[changed]).mean() > 0.5
    shift = STEP // found[0][0].model.factor
    for ((one, _), left), ((other, _), right) in pairwise(zip(found, made.edits, strict=True)):
        both = one.latent_mask(left.region)[..., shift:] & other.latent_mask(right.region)[..., :-shift]
        values = one.version.tensors["latents"][-1:, ..., shift:], other.version.tensors["latents"][-1:, ..., :-shift]
        assert both.any()
        assert torch.equal(*(torch.where(both, each, 0) for each in values))
    for session, x in found:
        session.undo()
        assert np.array_equal(session.pixels, large[:, x : x + session.size[1]])


@pytest.mark.parametrize("scheduler", ["ddim", "euler-a", "heun"])
def test_the_noise_of_one_view_counts_so_that_there_is_not_less_of_it(scheduler):
    one, other = (opened("ddpm", SPARSE, seed=seed, editor_options={"scheduler": scheduler}) for seed in (3, 4))
    everywhere = np.ones(one.size, bool)
    expected = one.branch().edit(mask=everywhere)
    found = redrawn_together([View(session, 0, 0, Asked(mask=everywhere)) for session in (one, other)])
    assert distance(found.image, expected.image) <= 1
    assert distance(other.pixels, expected.image) <= 1


def test_weights_fall_towards_the_edges_and_one_value_alone_stays():
    random, everywhere = torch.Generator().manual_seed(0), torch.ones(1, 1, 3, 4, dtype=torch.bool)
    left, right = (torch.randn(1, 2, 3, 4, generator=random) for _ in range(2))
    places = [(0, 0), (0, 2)]
    first, second = agreed([Shared((0, 1), each, everywhere, mean=True) for each in (left, right)], places)
    assert torch.equal(first[..., :2], left[..., :2])
    assert torch.equal(second[..., 2:], right[..., 2:])
    assert torch.equal(first[..., 2:], second[..., :2])
    middle = (2 * left[:, :, 1, 2] + right[:, :, 1, 0]) / 3
    assert torch.allclose(first[:, :, 1, 2], middle)
    first, second = agreed([Shared((0, 0), each, everywhere, mean=False) for each in (left, right)], places)
    assert torch.equal(first[:, :, 1], torch.cat([left[:, :, 1, :3], right[:, :, 1, 1:2]], 2))
    assert torch.equal(second[:, :, 1], torch.cat([left[:, :, 1, 2:3], right[:, :, 1, 1:]], 2))


def test_a_view_that_sees_nothing_of_it_stays():
    large, found = views("ddpm")
    drawn, told = large.copy(), [Mock(), Mock()]
    drawn[5:9, 2:8] = 255
    given = [replace(view, frames=frames) for view, frames in zip(parts(found, image=drawn), told, strict=True)]
    made = redrawn_together(given)
    assert [call.args[0] for call in told[0].show.call_args_list] == ["preview", "preview"]
    assert not told[1].show.called
    assert [edited.changed for edited in made.edits] == [True, False]
    assert [len(session.versions) for session, _ in found] == [2, 1]


@pytest.mark.parametrize("kept", [0, 1], ids=["computing", "keeping the second"])
def test_when_it_is_interrupted_all_sessions_are_as_before(kept, tmp_path, monkeypatch):
    large, found = views("ddpm")
    found[0][0].save(tmp_path / "first")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(found[1][0], "_put" if kept else "_redraw", stop)
    with pytest.raises(KeyboardInterrupt):
        redrawn_together(parts(found, image=255 - large))
    for session, x in found:
        assert len(session.versions) == 1
        assert np.array_equal(session.pixels, large[:, x : x + session.size[1]])
    assert [each.name for each in (tmp_path / "first" / "versions").iterdir()] == ["0000"]


def test_what_cannot_be_one_edit():
    _, ((one, _), (other, _)) = views("sd")
    mask = np.ones(one.size, bool)
    asked = Asked(mask=mask)
    shorter, fast = opened("sd", SPARSE, steps=3), opened("sd", "fast")
    for given, message in (
        ([], "give at least one"),
        ([View(one, 0, 0, asked), View(one, 4, 0, asked)], "no session twice"),
        ([View(one, 0, 0, asked), View(other, 6, 0, asked)], "multiples of 4 pixels"),
        ([View(one, 0, 0, asked), View(other, 4, 0, Asked(mask=mask, prompt="c"))], "one prompt"),
        ([View(one, 0, 0, asked), View(other, 4, 0, Asked(mask=mask, blend="fade"))], "one blend"),
        ([View(one, 0, 0, asked), View(shorter, 4, 0, asked)], "one number of steps"),
        ([View(one, 0, 0, asked), View(fast, 4, 0, asked)], "one editor"),
    ):
        with pytest.raises(OptionError, match=message):
            redrawn_together(given)
    with pytest.raises(ImageError, match="the mask is empty"):
        redrawn_together([View(one, 0, 0, asked), View(other, 4, 0, Asked(mask=mask & False))])
    assert len(one.versions) == len(other.versions) == 1


def test_no_seam_comes_of_the_border_of_a_view():
    across = np.linspace(60, 220, 96)[None, :, None] * np.ones((64, 1, 3))
    large, mask = across.astype(np.uint8), np.zeros((64, 96))
    mask[8:56, 8:88] = 1
    made = retouch.load("builtin/emoji", policy="fast")
    found = [(made.open(large[:, x : x + 64], prompt="red apple", steps=3, strength=1.0), x) for x in (0, 32)]
    alone = [np.asarray(s.branch().inpaint(mask[:, x : x + 64]).image) for s, x in found]
    apart = np.concatenate([alone[0][:, :48], alone[1][:, 16:]], 1)
    together = np.asarray(redrawn_together(parts(found, mask, inpaint=True)).image)
    inside, outside = (np.abs(np.diff(each[8:56].astype(float), axis=1)).mean((0, 2)) for each in (together, apart))
    assert outside[47] > 3 * np.median(outside[40:56])  # two pictures
    for border in (32, 48, 64):
        assert inside[border - 1] < 2 * np.median(inside[border - 8 : border + 8])
