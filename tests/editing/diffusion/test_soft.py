"""Grey masks: every position is denoised as in an edit of its own strength, and computed from the step it joins at."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from editing.diffusion.test_session import PIPELINES, contents, distance, equal, fitting, opened
from pipelines import painted
from retouch import ImageError, SchedulerError
from retouch.editing.diffusion.change import NEVER, joins
from retouch.incremental import Incremental
from retouch.plan import activity
from retouch.plan.region import dilate

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


METHODS = ("dpm++", "dpm++2s", "euler-a", "heun", "lcm", "pndm")
"""Schedulers that remember steps, draw noise, or call the network twice."""


def box(size, top=10, left=12, height=12, width=14):
    """A hard mask."""
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def ramp(size, top, left, height, width):
    """A mask that rises from left to right in a box."""
    mask = np.zeros(size)
    mask[top : top + height, left : left + width] = (np.arange(width) + 1) / width
    return mask


# What a grey level means.


@pytest.mark.parametrize("white", [1.0, np.uint8(255)])
def test_white_is_what_a_hard_mask_is(white):
    hard, soft = opened("inpaint"), opened("inpaint")
    mask, drawn = box(hard.size), painted(hard.pixels)
    assert np.array_equal(soft.edit(drawn, mask=mask * white).image, hard.edit(drawn, mask=mask).image)
    assert np.array_equal(soft.inpaint(mask * white).image, hard.inpaint(mask).image)
    assert equal(contents(soft), contents(hard))


@pytest.mark.parametrize("scheduler", METHODS)
def test_an_even_grey_is_a_smaller_strength(scheduler):
    name, options = fitting("v", scheduler), {"scheduler": scheduler}
    hard, soft = (opened(name, steps=8, strength=1.0, editor_options=options) for _ in range(2))
    mask, drawn = box(hard.size), painted(hard.pixels)
    expected = hard.edit(drawn, mask=mask, strength=0.5)
    assert np.array_equal(soft.edit(drawn, mask=mask * 0.5, strength=1.0).image, expected.image)
    assert equal(contents(soft), contents(hard))
    assert soft.version.facts["steps"] == hard.version.facts["steps"] < 8


@given(arrays.arrays(np.float32, (5, 7), elements=st.floats(0, 1, width=32)), st.floats(0.05, 1), st.integers(1, 50))
def test_a_pixel_joins_at_the_step_of_its_own_strength(strengths, strength, steps):
    def start(asked):
        if int(steps * asked) < 1:
            raise SchedulerError
        return steps - int(steps * asked)

    found = joins(strengths, strength, start)
    assert found.shape == strengths.shape
    for level, step in zip(strengths.flat, found.flat, strict=True):
        count = int(steps * min(strength, strength * level + 1e-7))
        assert step == (steps - count if count else NEVER)


def test_single_precision_loses_no_step():
    levels = np.float32(np.arange(11) / 10)[None]
    found = joins(levels.astype(float), 1.0, lambda strength: 10 - int(10 * strength) if strength >= 0.1 else NEVER)
    assert found.tolist() == [[NEVER, *range(9, -1, -1)]]


# Exact edits equal the dense reference.


@pytest.mark.parametrize("name", PIPELINES)
def test_exact_soft_edits_equal_the_dense_reference(name):
    session = opened(name, "exact", steps=6)
    mask, drawn = ramp(session.size, 8, 6, 9, 20), painted(session.pixels)
    expected = session.reference(drawn, mask=mask)
    assert distance(session.edit(drawn, mask=mask).image, expected.image) <= 1
    expected = session.reference(mask=mask.T, inpaint=True)
    assert distance(session.inpaint(mask.T).image, expected.image) <= 1


@pytest.mark.parametrize("scheduler", METHODS)
def test_exact_soft_edits_equal_the_dense_reference_under_every_scheduler(scheduler):
    session = opened(fitting("ddpm", scheduler), "exact", steps=6, editor_options={"scheduler": scheduler})
    mask, drawn = ramp(session.size, 8, 6, 9, 20), painted(session.pixels)
    expected = session.reference(drawn, mask=mask)
    assert distance(session.edit(drawn, mask=mask).image, expected.image) <= 1


def test_the_start_of_a_grey_part_is_the_edited_picture_noised():
    session = opened("ddpm", "exact", steps=6, strength=1.0)
    mask, drawn = box(session.size) * 0.5, painted(session.pixels, size=9)
    sampler, old = session.sampler, session.version.tensors["latents"]
    expected = sampler.noised(session.process.to_latent(drawn, None), sampler.noise_of(old[3], old[-1], 3), 3)[0]
    session.edit(drawn, mask=mask)
    inside = torch.from_numpy(mask > 0)
    found = session.version.tensors["latents"][3]
    assert torch.equal(found[:, inside], expected[:, inside])
    assert torch.equal(found[:, ~inside], old[3][:, ~inside])


# Nothing moves before it joins.


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1))
def test_positions_keep_the_trajectory_of_the_session_until_they_join(seed):
    session = fresh()
    levels = np.random.default_rng(seed).random((4, 4)).repeat(8, 0).repeat(8, 1)
    levels[levels < 0.3] = 0
    levels[0, 0] = 0.9
    old, before = session.version.tensors["latents"], session.pixels
    session.edit(painted(before, 2, 2, 20), mask=levels)
    new, after = session.version.tensors["latents"], session.pixels
    steps = joins(levels, session.settings["strength"], session.sampler.start)
    for i in range(session.first, len(session.sampler) + 1):
        joined = torch.from_numpy(dilate((steps <= i)[None], session.policy.dilate)[0])
        kept = new[i - session.first] == old[i - session.first]
        assert kept[:, ~joined].all()
    assert not kept.all()
    outside = ~dilate((steps < NEVER)[None], session.policy.dilate)[0]
    assert np.array_equal(after[outside], before[outside])


def fresh(made=[]):  # noqa: B006  one session for all examples
    """A session at its original."""
    made.append(made[0] if made else opened("v", steps=6, strength=1.0))
    return made[0].branch()


# Arithmetic.


def arithmetic(monkeypatch, edit):
    """Multiply-accumulates of all updates of an edit."""
    total, update = [], Incremental.update

    def counted(net, recording, region, *args, **kwargs):
        active = net.active(region)
        active = activity.everything(net.program) if net.planner.is_whole(active) else active
        dense = sum(op.macs_per_row() * op.out.rows for op in net.program.ops)
        total.append(dense * activity.share(net.plan, active))
        return update(net, recording, region, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Incremental, "update", counted)
        edit()
    return sum(total)


def test_a_ramp_takes_at_most_four_fifths_of_the_arithmetic_of_its_support(monkeypatch):
    session = opened("sd", steps=10, strength=0.8)
    mask = ramp(session.size, 20, 8, 24, 48)
    support = joins(mask, 0.8, session.sampler.start) < NEVER
    soft = arithmetic(monkeypatch, lambda: session.edit(mask=mask))
    session.undo()
    hard = arithmetic(monkeypatch, lambda: session.edit(mask=support))
    assert soft <= 0.8 * hard
    assert session.version.facts["region"] == support.mean()


# Sessions.


def test_the_region_is_what_joins_at_all():
    session = opened("ddpm", steps=4, strength=1.0)
    mask = np.zeros(session.size)
    mask[4:8, 4:8], mask[4:8, 8:12], mask[20:, 20:] = 1.0, 0.3, 0.2
    found = session.edit(painted(session.pixels, 4, 4, 4), mask=mask)
    assert found.region.mask[0].nonzero()[1].tolist() == [*range(4, 12)] * 4
    assert session.version.facts["region"] == 32 / session.size[0] / session.size[1]
    assert session.version.facts["steps"] == 4


def test_a_soft_edit_is_undone_and_goes_on(tmp_path):
    session = opened("sd", steps=5, folder=tmp_path / "s")
    first, before = contents(session), session.pixels
    mask = ramp(session.size, 20, 8, 24, 48)
    session.edit(mask=mask, prompt="c d")
    expected = session.edit(painted(session.pixels)).image
    session.undo(), session.undo()
    assert equal(contents(session), first)
    assert np.array_equal(session.pixels, before)
    session.edit(mask=mask, prompt="c d")
    assert np.array_equal(session.edit(painted(session.pixels)).image, expected)


def test_the_estimate_looks_at_what_has_joined():
    session = opened("ddpm", steps=8, strength=1.0)
    mask, drawn = ramp(session.size, 8, 6, 9, 20), painted(session.pixels)
    estimate = session.edit(drawn, mask=mask).estimate
    assert 0 < int(estimate.inside.sum()) < int((mask > 0).sum())
    assert session.edit(drawn, mask=mask, max_error=0.0).error == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.full((32, 32), np.nan), "NaN"),
        (np.full((32, 32), 1.5), r"0\.\.1"),
        (np.full((32, 32), 128, np.int64), "uint8, uint16, bool or floats"),
        (np.full((16, 32), 0.5), r"\[16, 32\].*\[32, 32\]"),
        (np.zeros((32, 32)), "empty"),
    ],
)
def test_masks_that_are_refused(mask, reason):
    session = opened("ddpm")
    for ask in (session.edit, session.inpaint, session.reference):
        with pytest.raises(ImageError, match=reason):
            ask(mask=mask)
    assert len(session.versions) == 1


def test_a_mask_too_dark_for_any_step_is_refused():
    session = opened("ddpm", steps=4, strength=0.7)
    for mask in (np.full(session.size, 0.3), np.ones(session.size, np.uint8)):
        with pytest.raises(SchedulerError, match=r"brightest value of the mask, 0.*leaves none of 4 steps"):
            session.edit(painted(session.pixels), mask=mask)
    assert len(session.versions) == 1
